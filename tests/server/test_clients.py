"""One picture, every route, clients we did not write: the same numbers."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from PIL import Image
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from tests.server.process import BUNDLE, ROOT, ServerProcess

MODEL = "realfake"
INFER = f"/v2/models/{MODEL}/infer"
PREDICT = f"/v1/models/{MODEL}:predict"
TOLERANCE = 1e-6
"""The issue's own bound for one engine."""

Route = Callable[[ServerProcess, bytes], float]


def b64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def v2_output(body: Any, name: str = "fake_prob") -> Any:
    return next(output for output in body["outputs"] if output["name"] == name)["data"]


def v2_json(server: ServerProcess, picture: bytes) -> float:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64(picture)]}
    with server.client() as client:
        response = client.post(INFER, json={"inputs": [tensor]})
    assert response.status_code == 200, response.text
    return float(v2_output(response.json())[0])


def v2_raw(server: ServerProcess, picture: bytes) -> float:
    with server.client() as client:
        response = client.post(INFER, content=picture, headers={"Content-Type": "image/jpeg"})
    assert response.status_code == 200, response.text
    return float(v2_output(response.json())[0])


def v1_json(server: ServerProcess, picture: bytes) -> float:
    with server.client() as client:
        body = {"instances": [{"image": {"b64": b64(picture)}}]}
        response = client.post(PREDICT, json=body)
    assert response.status_code == 200, response.text
    return float(response.json()["predictions"][0]["fake_prob"])


def v1_raw(server: ServerProcess, picture: bytes) -> float:
    with server.client() as client:
        response = client.post(PREDICT, content=picture, headers={"Content-Type": "image/jpeg"})
    return float(response.json()["predictions"][0]["fake_prob"])


def legacy(server: ServerProcess, picture: bytes) -> float:
    with server.client() as client:
        response = client.post("/infer", files={"file": ("a.jpg", picture, "image/jpeg")})
    body = response.json()
    assert set(body) == {"request_id", "fake_prob", "real_prob"}
    assert body["fake_prob"] + body["real_prob"] == pytest.approx(1)
    return float(body["fake_prob"])


def triton_rest(
    binary: bool, compression: str | None = None, requested: bool | None = None
) -> Route:
    def call(server: ServerProcess, picture: bytes) -> float:
        value = picture if binary else b64(picture).encode()
        tensor = triton_http.InferInput("image", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([value], dtype=np.object_), binary_data=binary)
        outputs = None
        if requested is not None:
            outputs = [triton_http.InferRequestedOutput("fake_prob", binary_data=requested)]
        client = triton_http.InferenceServerClient(server.http_address)
        try:
            result = client.infer(
                MODEL,
                [tensor],
                outputs=outputs,
                headers=server.headers,
                request_compression_algorithm=compression,
                response_compression_algorithm=compression,
            )
        finally:
            client.close()
        return float(result.as_numpy("fake_prob")[0])

    return call


def triton_rpc(server: ServerProcess, picture: bytes) -> float:
    tensor = triton_grpc.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([picture], dtype=np.object_))
    headers = {"x-api-key": server.api_key}
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        result = client.infer(MODEL, [tensor], headers=headers)
    assert result.as_numpy("verdict")[0] in (b"fake", b"real", b"uncertain")
    return float(result.as_numpy("fake_prob")[0])


def grpc_contents(server: ServerProcess, picture: bytes) -> float:
    request = pb.ModelInferRequest(model_name=MODEL)
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(picture)
    with grpc.insecure_channel(server.grpc) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        response = stub.ModelInfer(
            request, metadata=[("authorization", f"Bearer {server.api_key}")], timeout=30
        )
    assert not response.raw_output_contents
    outputs = {output.name: output.contents for output in response.outputs}
    return float(outputs["fake_prob"].fp32_contents[0])


def score(server: ServerProcess, picture: bytes) -> float:
    folder = server.directory / "score"
    folder.mkdir(exist_ok=True)
    (folder / "a.jpg").write_bytes(picture)
    output = folder / "results.jsonl"
    output.unlink(missing_ok=True)
    command = [sys.executable, "-m", "predictor", "score", str(folder / "a.jpg")]
    options = ["--output", str(output), "--model.path", str(BUNDLE), "--auth.mode", "none"]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return float(json.loads(output.read_text())["fake_prob"])


ROUTES: dict[str, Route] = {
    "v2 json base64": v2_json,
    "v2 raw body": v2_raw,
    "v1 json": v1_json,
    "v1 raw body": v1_raw,
    "/infer": legacy,
    "tritonclient.http binary": triton_rest(binary=True),
    "tritonclient.http json": triton_rest(binary=False),
    "tritonclient.http binary gzip": triton_rest(binary=True, compression="gzip"),
    "tritonclient.http binary deflate": triton_rest(binary=True, compression="deflate"),
    "tritonclient.http json gzip": triton_rest(binary=False, compression="gzip"),
    "tritonclient.http binary in, json out": triton_rest(binary=True, requested=False),
    "tritonclient.http json in, binary out": triton_rest(binary=False, requested=True),
    "tritonclient.grpc": triton_rpc,
    "grpc contents": grpc_contents,
    "score": score,
}


@pytest.fixture(scope="module")
def reference(server: ServerProcess, photo: bytes) -> float:
    return v2_json(server, photo)


@pytest.mark.parametrize("route", [*ROUTES])
def test_every_route_gives_the_same_probability(
    route: str, server: ServerProcess, photo: bytes, reference: float
) -> None:
    assert ROUTES[route](server, photo) == pytest.approx(reference, abs=TOLERANCE)


def _pixels(picture: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(picture)) as image:
        return np.asarray(image.convert("RGB"))[None]


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_by_tritonclient_http(binary: bool, server: ServerProcess, reference: float) -> None:
    """A small picture as numbers equals the same picture as a PNG file."""
    small = Image.fromarray(np.random.default_rng(1).integers(0, 255, (96, 128, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.save(file, "PNG")
    pixels = np.asarray(small)[None]
    tensor = triton_http.InferInput("pixels", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    client = triton_http.InferenceServerClient(server.http_address)
    try:
        result = client.infer(MODEL, [tensor], headers=server.headers)
    finally:
        client.close()
    expected = v2_raw(server, file.getvalue())
    assert result.as_numpy("fake_prob")[0] == pytest.approx(expected, abs=TOLERANCE)


def test_pixels_over_grpc(server: ServerProcess, photo: bytes, reference: float) -> None:
    pixels = _pixels(photo)
    tensor = triton_grpc.InferInput("pixels", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        result = client.infer(MODEL, [tensor], headers={"x-api-key": server.api_key})
    assert result.as_numpy("fake_prob")[0] == pytest.approx(reference, abs=TOLERANCE)


def test_a_preprocessed_tensor_gives_the_same_answer(
    server: ServerProcess, photo: bytes, reference: float
) -> None:
    """The caller resizes and normalises with timm's own transform."""
    from timm.data.transforms_factory import create_transform

    config = json.loads((BUNDLE / "config.json").read_text())["pretrained_cfg"]
    transform = create_transform(
        tuple(config["input_size"]),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        crop_mode=config.get("crop_mode", "center"),
        mean=config["mean"],
        std=config["std"],
    )
    with Image.open(io.BytesIO(photo)) as image:
        array = transform(image.convert("RGB")).numpy()[None]
    tensor = triton_grpc.InferInput("tensor", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        result = client.infer(MODEL, [tensor], headers={"x-api-key": server.api_key})
    assert result.as_numpy("fake_prob")[0] == pytest.approx(reference, abs=TOLERANCE)


def test_a_batch_answers_as_its_pictures_do_alone(server: ServerProcess, photo: bytes) -> None:
    files = sorted((BUNDLE / "samples").glob("*.jpg"))
    pictures = [path.read_bytes() for path in files] * 4
    tensor = triton_http.InferInput("image", [len(pictures)], "BYTES")
    tensor.set_data_from_numpy(np.array(pictures, dtype=np.object_))
    client = triton_http.InferenceServerClient(server.http_address)
    try:
        result = client.infer(MODEL, [tensor], headers=server.headers)
    finally:
        client.close()
    together = result.as_numpy("fake_prob")
    alone = [v2_raw(server, picture) for picture in pictures]
    np.testing.assert_allclose(together, alone, atol=TOLERANCE)
    assert result.as_numpy("probabilities").shape == (len(pictures), 2)


def test_metadata_by_both_triton_clients(server: ServerProcess) -> None:
    headers = {"x-api-key": server.api_key}
    rest = triton_http.InferenceServerClient(server.http_address)
    try:
        over_http = rest.get_model_metadata(MODEL, headers=headers)
        assert rest.get_server_metadata(headers=headers)["name"] == "realfake"
        assert rest.is_server_live()
        assert rest.is_server_ready()
        assert rest.is_model_ready(MODEL)
        assert rest.is_model_ready(MODEL, over_http["versions"][0])
    finally:
        rest.close()
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        over_grpc = client.get_model_metadata(MODEL, headers=headers, as_json=True)
        assert client.is_model_ready(MODEL)
        assert client.get_server_metadata(headers=headers).name == "realfake"
    assert [t["name"] for t in over_http["inputs"]] == [t["name"] for t in over_grpc["inputs"]]
    assert {t["name"] for t in over_http["outputs"]} == {"probabilities", "fake_prob", "verdict"}


def test_versions_are_real(server: ServerProcess, photo: bytes) -> None:
    with server.client() as client:
        version = client.get(f"/v2/models/{MODEL}").json()["versions"][0]
        headers = {"Content-Type": "image/jpeg"}
        path = f"/v2/models/{MODEL}/versions/{version}"
        assert client.post(f"{path}/infer", content=photo, headers=headers).status_code == 200
        assert client.get(path).status_code == 200
        missing = client.get(f"/v2/models/{MODEL}/versions/none")
    assert missing.status_code == 404
    assert missing.json()["code"] == "NOT_FOUND"


def test_documentation_is_off_by_default(server: ServerProcess) -> None:
    with server.client() as client:
        codes = {path: client.get(path).status_code for path in ("/docs", "/openapi.json")}
    assert codes == {"/docs": 404, "/openapi.json": 404}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/v2/repository/models/{MODEL}/unload"),
        ("POST", f"/v2/repository/models/{MODEL}/load"),
        ("GET", "/metrics"),
        ("POST", f"/v1/models/{MODEL}:explain"),
    ],
)
def test_what_kserve_would_open_is_not_there(method: str, path: str, server: ServerProcess) -> None:
    with server.client() as client:
        response = client.request(method, path)
    assert response.status_code == 404
    assert response.json()["code"] == "NOT_FOUND"


def test_a_model_cannot_be_unloaded_over_grpc(server: ServerProcess) -> None:
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        with pytest.raises(triton_grpc.InferenceServerException) as refused:
            client.unload_model(MODEL, headers={"x-api-key": server.api_key})
        assert "UNIMPLEMENTED" in str(refused.value.status())
        assert client.is_model_ready(MODEL)


def test_request_ids_are_kept_when_safe_and_made_when_not(server: ServerProcess) -> None:
    with server.client() as client:
        kept = client.get("/v2", headers={"X-Request-Id": "order-66.a_b"})
        made = client.get("/v2", headers={"X-Request-Id": "no spaces, please"})
    assert kept.headers["x-request-id"] == "order-66.a_b"
    assert made.headers["x-request-id"] not in ("", "no spaces, please")


def test_no_key_no_answer(server: ServerProcess, photo: bytes) -> None:
    response = httpx.post(server.url + INFER, content=photo, headers={"Content-Type": "image/jpeg"})
    assert response.status_code == 401
    assert response.json()["code"] == "UNAUTHENTICATED"
    with (
        triton_grpc.InferenceServerClient(server.grpc) as client,
        pytest.raises(triton_grpc.InferenceServerException) as refused,
    ):
        client.get_server_metadata()
    assert "UNAUTHENTICATED" in str(refused.value.status())


def test_log_lines_are_json_and_name_the_request(server: ServerProcess, photo: bytes) -> None:
    with server.client() as client:
        client.post(
            INFER,
            content=photo,
            headers={"Content-Type": "image/jpeg", "X-Request-Id": "find-me"},
        )
    lines = [line for line in server.log_lines() if line.get("request_id") == "find-me"]
    assert [line["status"] for line in lines if line["message"] == "request"] == [200]
    assert server.api_key not in server.log_text()


def test_score_needs_no_server(tmp_path: Path) -> None:
    """The command is on its own: it starts where no port is free and no key exists."""
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a picture")
    output = tmp_path / "out.csv"
    command = [sys.executable, "-m", "predictor", "score", str(BUNDLE / "samples"), str(bad)]
    options = ["--output", str(output), "--model.path", str(BUNDLE), "--auth.mode", "none"]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "UNSUPPORTED_MEDIA" in output.read_text() or "INVALID_IMAGE" in output.read_text()
