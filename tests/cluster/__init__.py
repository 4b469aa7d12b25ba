"""The whole product on a real cluster: docs/cluster-tests.md says how to get one with kind."""
