"""Programs that run in the cluster, in the predictor's own image: what a client there sees."""

from __future__ import annotations

import json
import uuid
from typing import Any

from tests.cluster.kubernetes import Cluster
from tests.server.process import eventually

_PROGRAM_LIMIT_S = 600.0
_PRELUDE = """
import json, os, sys, time, urllib.error, urllib.request
KEY = os.environ["API_KEY"]
PICTURE = open(os.environ.get("PICTURE", "/mnt/models/samples/photo-1.jpg"), "rb").read()

def post(url, key=KEY, headers=None):
    every = {"X-API-Key": key, "Content-Type": "image/jpeg", **(headers or {})}
    request = urllib.request.Request(url + "/v2/models/realfake/infer", PICTURE, every)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None
    except OSError as error:
        return type(error).__name__, None
"""

REST = (
    _PRELUDE
    + """
status, body = post(sys.argv[1])
verdict = {o["name"]: o["data"] for o in body["outputs"]}["verdict"][0] if body else None
print(json.dumps({"status": status, "verdict": verdict}))
"""
)

GRPC = (
    _PRELUDE
    + """
import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb, grpc_predict_v2_pb2_grpc as rpc
tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
tensor.contents.bytes_contents.append(PICTURE)
with grpc.insecure_channel(sys.argv[1]) as channel:
    answer = rpc.GRPCInferenceServiceStub(channel).ModelInfer(
        pb.ModelInferRequest(model_name="realfake", inputs=[tensor]),
        metadata=[("x-api-key", KEY)], timeout=30)
names = [output.name for output in answer.outputs]
print(json.dumps({"outputs": sorted(names)}))
"""
)

# Arguments: URL, seconds, headers as JSON. Its answer is how often each status came.
LOAD = (
    _PRELUDE
    + """
from collections import Counter
seen, end = Counter(), time.monotonic() + float(sys.argv[2])
headers = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
while time.monotonic() < end:
    seen[str(post(sys.argv[1], headers=headers)[0])] += 1
    if seen.total() == 1:
        print("started", flush=True)
print(json.dumps(seen))
"""
)


class Program:
    """A pod that runs one of the programs above; restricted, like everything in the namespace."""

    def __init__(self, cluster: Cluster, image: str, key: str, program: str, *args: str) -> None:
        self._cluster = cluster
        self.name = f"client-{uuid.uuid4().hex[:6]}"
        container = {
            "name": "client",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python", "-c", program, *args],
            "env": [{"name": "API_KEY", "value": key}],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        spec = {"restartPolicy": "Never", "containers": [container], "securityContext": security}
        body = {"metadata": {"name": self.name}, "spec": spec}
        cluster.core.create_namespaced_pod(cluster.namespace, body)

    def log(self) -> str:
        log: str = self._cluster.core.read_namespaced_pod_log(self.name, self._cluster.namespace)
        return log

    def wait_started(self) -> None:
        """Until it has its first answer."""

        def started() -> bool | None:
            return (self._phase() != "Pending" and "started" in self.log()) or None

        eventually(started, _PROGRAM_LIMIT_S, f"{self.name} to start")

    def result(self) -> dict[str, Any]:
        """The JSON of its last line, once it has ended well; the pod is removed then."""
        phase = eventually(
            lambda: self._phase() if self._phase() in ("Succeeded", "Failed") else None,
            _PROGRAM_LIMIT_S,
            f"{self.name} to end",
        )
        log = self.log()
        assert phase == "Succeeded", log
        self._cluster.core.delete_namespaced_pod(self.name, self._cluster.namespace)
        answer: dict[str, Any] = json.loads(log.splitlines()[-1])
        return answer

    def _phase(self) -> str:
        pod = self._cluster.core.read_namespaced_pod_status(self.name, self._cluster.namespace)
        phase: str = pod.status.phase
        return phase
