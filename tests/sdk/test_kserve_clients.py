"""kserve's own clients, unchanged, against the real server."""

from __future__ import annotations

import base64

import kserve
import numpy as np
import pytest

from tests.server.process import ServerProcess

MODEL = "realfake"
TOLERANCE = 1e-6


def b64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


@pytest.fixture(scope="module")
def reference(server: ServerProcess, photo: bytes) -> float:
    """What the server answers without kserve's client."""
    with server.client() as client:
        response = client.post(
            f"/v2/models/{MODEL}/infer", content=photo, headers={"Content-Type": "image/jpeg"}
        )
    outputs = {output["name"]: output["data"] for output in response.json()["outputs"]}
    return float(outputs["fake_prob"][0])


@pytest.mark.parametrize("binary", [True, False])
async def test_kserve_rest_client_v2(
    binary: bool, server: ServerProcess, photo: bytes, reference: float
) -> None:
    value = photo if binary else b64(photo)
    tensor = kserve.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value], dtype=np.object_), binary_data=binary)
    request = kserve.InferRequest(MODEL, [tensor], request_id="k-1")
    config = kserve.inference_client.RESTConfig(protocol="v2")
    async with kserve.InferenceRESTClient(config) as client:
        assert await client.is_server_live(server.url)
        assert await client.is_server_ready(server.url)
        assert await client.is_model_ready(server.url, MODEL)
        response = await client.infer(
            server.url, request, model_name=MODEL, headers=dict(server.headers)
        )
    assert isinstance(response, kserve.InferResponse)
    assert response.id == "k-1"
    output = response.get_output_by_name("fake_prob").as_numpy()
    assert output[0] == pytest.approx(reference, abs=TOLERANCE)


async def test_kserve_rest_client_v1(server: ServerProcess, photo: bytes, reference: float) -> None:
    async with kserve.InferenceRESTClient() as client:
        assert await client.is_model_ready(server.url, MODEL)
        body = {"instances": [{"image": {"b64": b64(photo)}}]}
        response = await client.infer(
            server.url, body, model_name=MODEL, headers=dict(server.headers)
        )
    assert isinstance(response, dict)
    assert response["predictions"][0]["fake_prob"] == pytest.approx(reference, abs=TOLERANCE)


async def test_kserve_grpc_client(server: ServerProcess, photo: bytes, reference: float) -> None:
    tensor = kserve.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([photo], dtype=np.object_), binary_data=True)
    request = kserve.InferRequest(MODEL, [tensor])
    metadata = (("x-api-key", server.api_key),)
    async with kserve.InferenceGRPCClient(server.grpc) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(MODEL)
        response = await client.infer(request, headers=metadata)
    output = response.get_output_by_name("fake_prob").as_numpy()
    assert output[0] == pytest.approx(reference, abs=TOLERANCE)
