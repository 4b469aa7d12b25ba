"""The old contract: a multipart form with one picture in, two probabilities out."""

from __future__ import annotations

from typing import Final

import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from predictor.errors import InvalidRequest, UnsupportedMedia
from predictor.inference.pictures import Classification, EncodedImage
from predictor.protocol.answers import check, fake_prob, real_prob

FIELD: Final = b"file"
HINT: Final = "send one picture as the multipart field 'file' (curl -F file=@photo.jpg)"
PLAIN_ENCODINGS: Final = (b"binary", b"7bit", b"8bit")
"""Content-Transfer-Encodings that leave the bytes as they are."""
MAX_PARTS: Final = 32
MAX_PART_HEADERS: Final = 16
MAX_PART_HEADER_BYTES: Final = 8 * 1024


def decode_multipart(body: bytes, content_type: str) -> EncodedImage:
    """Read the picture of a multipart form; fields of other names are ignored.

    Args:
        content_type: the Content-Type header, with the boundary.

    Raises:
        UnsupportedMedia: the body is not a multipart form.
        InvalidRequest: the form is broken, or has not exactly one `file`.
    """
    media_type, options = parse_options_header(content_type.encode("latin-1", "replace"))
    if media_type != b"multipart/form-data":
        raise UnsupportedMedia(f"the body is not multipart/form-data; {HINT}")
    boundary = options.get(b"boundary")
    if not boundary:
        raise InvalidRequest(f"Content-Type: multipart/form-data without a boundary; {HINT}")
    form = _Form(body)
    form.parse(boundary)
    if len(form.files) != 1:
        raise InvalidRequest(f"the form has {len(form.files)} fields named 'file'; {HINT}")
    return EncodedImage(form.files[0])


def encode(result: Classification, request_id: str) -> bytes:
    """Write the answer as old clients know it.

    Raises:
        InternalError: the classifier's numbers are no probabilities.
    """
    check([result], pictures=1)
    answer = {
        "request_id": request_id,
        "fake_prob": fake_prob(result),
        "real_prob": real_prob(result),
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


class _Form:
    """Collects the parts of a form that are named `file`, as views of the body."""

    def __init__(self, body: bytes) -> None:
        self.files: list[bytes | memoryview] = []
        self._body = body
        self._parts = 0
        self._ended = False
        self._name = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._data: list[bytes | memoryview] | None = None

    def parse(self, boundary: bytes) -> None:
        """Parse the whole body.

        Raises:
            InvalidRequest: it is not a form, or costs more than a form may.
        """
        try:
            parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_header_name,
                    "on_header_value": self._add_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
                max_header_count=MAX_PART_HEADERS,
                max_header_size=MAX_PART_HEADER_BYTES,
            )
            parser.write(self._body)
        except FormParserError:
            raise InvalidRequest(
                f"the form does not follow its boundary, or has oversized part headers; {HINT}"
            ) from None
        if not self._ended:
            raise InvalidRequest(f"the form ends before its closing boundary; {HINT}")

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest(f"the form has more than {MAX_PARTS} parts; {HINT}")
        self._headers = {}
        self._data = None

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _end_headers(self) -> None:
        disposition = parse_options_header(self._headers.get(b"content-disposition"))
        if disposition[1].get(b"name") != FIELD:
            return
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if encoding not in PLAIN_ENCODINGS:
            raise InvalidRequest(f"the field 'file' has a transfer encoding; {HINT}")
        self._data = []

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._data is not None:
            self._data.append(memoryview(data)[start:end])

    def _end_part(self) -> None:
        if self._data is not None:
            self.files.append(self._data[0] if len(self._data) == 1 else b"".join(self._data))

    def _end(self) -> None:
        self._ended = True
