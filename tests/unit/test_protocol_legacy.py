"""The old contract: multipart in, two probabilities out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from predictor.errors import InternalError, InvalidRequest, UnsupportedMedia
from predictor.inference.pictures import Classification
from predictor.protocol import legacy
from predictor.protocol.schemas import LegacyResponse
from tests.unit.protocol_requests import JPEG, result

TYPE = "multipart/form-data; boundary=XyZ"
FILE = 'Content-Disposition: form-data; name="file"; filename="a;b.jpg"\r\nContent-Type: image/jpeg'


def part(data: bytes, headers: str = FILE) -> bytes:
    return b"--XyZ\r\n" + headers.encode() + b"\r\n\r\n" + data + b"\r\n"


def field(name: str, value: bytes = b"v") -> bytes:
    return part(value, f'Content-Disposition: form-data; name="{name}"')


END = b"--XyZ--\r\n"


@pytest.mark.parametrize(
    "picture",
    [JPEG, b"\r\n--Xy", b"a--XyZ--\r\n", b"\r\n" * 50, b"\r\n--Xy\r\n--X", b"\r", b"\r\n-"],
)
@pytest.mark.parametrize(
    "content_type",
    [TYPE, 'Multipart/Form-Data; charset=utf-8; Boundary="XyZ"'],
)
def test_the_picture_arrives_byte_for_byte(picture: bytes, content_type: str) -> None:
    body = field("note") + part(picture) + field("more") + END
    assert bytes(legacy.decode_multipart(body, content_type).data) == picture


def test_a_large_picture_is_not_copied() -> None:
    body = part(bytes(1_000_000)) + END
    data = legacy.decode_multipart(body, TYPE).data
    assert isinstance(data, memoryview)
    assert data.obj is body


@pytest.mark.parametrize(
    "headers",
    [
        "content-disposition: form-data; name=file",
        'CONTENT-DISPOSITION: form-data; filename="x"; name="file"',
        f"{FILE}\r\nContent-Transfer-Encoding: binary",
    ],
)
def test_headers_are_read_as_browsers_and_libraries_write_them(headers: str) -> None:
    data = legacy.decode_multipart(part(JPEG, headers) + END, TYPE).data
    assert bytes(data) == JPEG


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "closing boundary"),
        (END, "0 fields"),
        (field("picture") + END, "0 fields"),
        (field("File") + END, "0 fields"),
        (part(JPEG, "Content-Type: image/jpeg") + END, "0 fields"),
        (part(JPEG) + part(JPEG) + END, "2 fields"),
        (part(JPEG), "closing boundary"),
        (part(JPEG)[:-6], "closing boundary"),
        (part(JPEG).replace(b"XyZ", b"other") + b"--other--", "boundary"),
        (JPEG, "boundary"),
        (part(JPEG, f"{FILE}\r\nX: {'a' * 100_000}") + END, "oversized"),
        (part(JPEG, "\r\n".join([FILE, *["A: b"] * 40])) + END, "oversized"),
        (part(JPEG, "no colon here") + END, "boundary"),
        (part(JPEG, f"{FILE}\r\nContent-Transfer-Encoding: base64") + END, "transfer encoding"),
        (field("a") * 1000 + part(JPEG) + END, "more than 32 parts"),
    ],
)
def test_broken_forms_are_refused_with_a_hint(body: bytes, named: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        legacy.decode_multipart(body, TYPE)
    assert named in refused.value.message
    assert "curl -F file=@" in refused.value.message
    assert len(refused.value.message) < 300


@pytest.mark.parametrize(
    "content_type",
    ["", "image/jpeg", "multipart/mixed; boundary=XyZ", "application/x-www-form-urlencoded", "é€"],
)
def test_other_media_are_unsupported(content_type: str) -> None:
    with pytest.raises(UnsupportedMedia, match="multipart/form-data"):
        legacy.decode_multipart(part(JPEG) + END, content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        f"multipart/form-data; boundary={'b' * 1000}",
    ],
)
def test_a_form_needs_a_boundary(content_type: str) -> None:
    with pytest.raises(InvalidRequest, match="boundary"):
        legacy.decode_multipart(part(JPEG) + END, content_type)


def test_answer() -> None:
    body = legacy.encode(result(0.7), "r-1")
    assert json.loads(body) == {
        "request_id": "r-1",
        "fake_prob": 0.7,
        "real_prob": pytest.approx(0.3),
    }
    LegacyResponse.model_validate_json(body)


def test_numbers_that_are_none_are_never_answered() -> None:
    broken = Classification(np.array([0, 0, 1], dtype=np.float32), float("nan"), "real")
    with pytest.raises(InternalError):
        legacy.encode(broken, "r-1")
