"""The shell around the classifier: kserve, HTTP and gRPC. Nothing below imports these."""

import os

# gRPC's core, when it is loaded, asks this whether to write to stderr past every logger: a line
# that is not JSON for each handshake that fails, and for metadata a part of what the client sent.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
