"""A fault drill: real faults, a real Prometheus, and what the runbooks say to do."""
