"""Ask a deployed predictor about one known picture, as `helm test` does.

Exit code 0, or 1 with the reason. Runs in the predictor's own image.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

TIMEOUT_S = 30
PHOTO = Path(__file__).with_name("photo.jpg")


class Failed(Exception):
    """What the service did wrong."""


def expect(condition: bool, reason: str) -> None:
    if not condition:
        raise Failed(reason)


def fetch(
    url: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError as error:
        raise Failed(f"{url}: {error}") from None


def check_http(url: str, model: str, key: str | None, refusal: bool) -> str | None:
    """Returns the verdict, or None where inference is refused as it must be."""
    status, _ = fetch(f"{url}/v2/health/ready")
    expect(status == 200, f"/v2/health/ready answered {status}")
    headers = {"Content-Type": "image/jpeg"}
    if key is not None:
        headers["X-API-Key"] = key
    status, body = fetch(f"{url}/v2/models/{model}/infer", PHOTO.read_bytes(), headers)
    if refusal:
        expect(status == 401, f"inference without a key answered {status}, not 401")
        return None
    expect(status == 200, f"inference over HTTP answered {status}: {body[:300]!r}")
    outputs = {output["name"]: output for output in json.loads(body)["outputs"]}
    total = sum(outputs["probabilities"]["data"])
    expect(abs(total - 1) < 1e-3, f"the probabilities add up to {total}")
    return str(outputs["verdict"]["data"][0])


def check_grpc(target: str, model: str, key: str | None, refusal: bool) -> str | None:
    """The same over gRPC."""
    import grpc

    pb = grpc_messages()
    request = pb.ModelInferRequest(model_name=model)
    picture = request.inputs.add(name="image", datatype="BYTES", shape=[1])
    picture.contents.bytes_contents.append(PHOTO.read_bytes())
    metadata = () if key is None else (("x-api-key", key),)
    with grpc.insecure_channel(target) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        try:
            answer = infer(request, metadata=metadata, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            code = error.code()
            if refusal and code is grpc.StatusCode.UNAUTHENTICATED:
                return None
            raise Failed(f"inference over gRPC answered {code.name}: {error.details()}") from None
    expect(not refusal, "inference over gRPC without a key was answered")
    for index, output in enumerate(answer.outputs):
        if output.name == "verdict":
            # A raw BYTES element is its length in four bytes, then itself.
            raw = answer.raw_output_contents[index][4:] if answer.raw_output_contents else b""
            return bytes(raw or output.contents.bytes_contents[0]).decode()
    raise Failed("the answer over gRPC has no verdict")


def grpc_messages() -> Any:
    """kserve's messages without kserve, which parses this command line when it is imported."""
    kserve = find_spec("kserve")
    if kserve is None or kserve.origin is None:
        raise Failed("this image has no kserve")
    file = Path(kserve.origin).parent / "protocol" / "grpc" / "grpc_predict_v2_pb2.py"
    spec = spec_from_file_location("grpc_predict_v2_pb2", file)
    if spec is None or spec.loader is None:
        raise Failed(f"{file} cannot be loaded")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_metrics(url: str) -> None:
    status, body = fetch(url)
    expect(status == 200, f"{url} answered {status}")
    expect(b"inference_" in body, f"{url} has none of the predictor's metrics")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--http")
    parser.add_argument("--grpc")
    parser.add_argument("--metrics")
    parser.add_argument("--key-file", type=Path)
    parser.add_argument("--expect-refusal", action="store_true")
    args = parser.parse_args()
    key = args.key_file.read_text(encoding="ascii").strip() if args.key_file else None
    verdicts = set()
    try:
        if args.http:
            verdicts.add(check_http(args.http, args.model, key, args.expect_refusal))
            print("HTTP: ok", flush=True)
        if args.grpc:
            verdicts.add(check_grpc(args.grpc, args.model, key, args.expect_refusal))
            print("gRPC: ok", flush=True)
        expect(len(verdicts) == 1, f"HTTP and gRPC disagree: {sorted(map(str, verdicts))}")
        if args.metrics:
            check_metrics(args.metrics)
            print("metrics: ok", flush=True)
    except Failed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
