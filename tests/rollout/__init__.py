"""The rollout assistant against a real Kubernetes API server and a real Prometheus."""
