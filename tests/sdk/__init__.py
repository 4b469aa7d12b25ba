"""What needs kserve in the test process.

kserve and tritonclient register the same protobuf symbols, so one process can import only one
of them (tritonclient.http alone is harmless). These tests run in a pytest of their own
(hack/test.sh); all others use tritonclient.
"""
