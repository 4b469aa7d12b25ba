"""The built image, run as a restricted pod would run it: `make image-test`."""
