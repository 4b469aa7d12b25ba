"""The shell around the classifier: kserve, HTTP and gRPC. Nothing below imports these."""
