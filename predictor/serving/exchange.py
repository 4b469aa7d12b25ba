"""One HTTP request as far as it is known, and what its answer looks like."""

from __future__ import annotations

from contextvars import Context
from dataclasses import dataclass
from typing import Final

from predictor.errors import WireError
from predictor.serving.call import Call
from predictor.serving.error_answer import error_body, error_headers
from predictor.serving.http import JSON, HttpResponse, content_length
from predictor.serving.routes import Match

KEPT_BODY_BYTES: Final = 256 * 1024
"""A body that small is on its way when its request is refused: to read it costs less than a new
connection. A caller of a larger one is told to stop."""
LINGER_S: Final = 2.0
"""How long a refused caller may go on sending its body."""


@dataclass(slots=True)
class Exchange:
    """From the moment its head is read.

    Attributes:
        headers: lower-case names; the first value where a name repeats.
        context: the request's own; what runs in it logs its ids.
        head_s: seconds that its head took to arrive.
        refusal: what the head alone is answered with.
    """

    method: str
    headers: dict[str, str]
    match: Match
    call: Call
    context: Context
    head_s: float
    refusal: WireError | None = None
    body_read: bool = False

    @property
    def has_body(self) -> bool:
        return self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers

    @property
    def body_is_coming(self) -> bool:
        """Whether what is unread of the body is worth reading, so that its connection can go on."""
        length = content_length(self.headers)
        return (
            length is not None
            and length <= KEPT_BODY_BYTES
            and "expect" not in self.headers  # it waits for our word, and may never send it now
        )

    def error(self, error: WireError) -> HttpResponse:
        body = error_body(error, self.call.request_id, legacy=self.match.legacy)
        headers = error_headers(error, self.match.allowed)
        return HttpResponse(body, error.http_status, JSON, headers)

    def head_of(self, response: HttpResponse) -> list[tuple[bytes, bytes]]:
        """Header fields of the answer."""
        fields = {
            "content-type": response.content_type,
            "content-length": str(len(response.body)),
            "x-request-id": self.call.request_id,
            **self.call.headers,
            **response.headers,
        }
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
