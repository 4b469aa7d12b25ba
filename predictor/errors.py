"""The error tree: every failure a caller can see, with its code, HTTP status and gRPC status.

RealFakeError
├── RequestError            the caller's fault; the message says what to change
│   ├── InvalidRequest      INVALID_REQUEST    400  INVALID_ARGUMENT
│   ├── InvalidImage        INVALID_IMAGE      400  INVALID_ARGUMENT
│   ├── Unauthenticated     UNAUTHENTICATED    401  UNAUTHENTICATED
│   ├── NotFound            NOT_FOUND          404  NOT_FOUND
│   ├── MethodNotAllowed    METHOD_NOT_ALLOWED 405  UNIMPLEMENTED
│   ├── RequestTimeout      REQUEST_TIMEOUT    408  DEADLINE_EXCEEDED
│   ├── PayloadTooLarge     PAYLOAD_TOO_LARGE  413  RESOURCE_EXHAUSTED
│   ├── ImageTooLarge       IMAGE_TOO_LARGE    413  INVALID_ARGUMENT
│   ├── UnsupportedMedia    UNSUPPORTED_MEDIA  415  INVALID_ARGUMENT
│   └── RateLimited         RATE_LIMITED       429  RESOURCE_EXHAUSTED
├── ServiceError            this replica's state; a retry may succeed
│   ├── Overloaded          OVERLOADED         503  UNAVAILABLE
│   ├── NotReady            NOT_READY          503  UNAVAILABLE
│   ├── DeadlineExceeded    DEADLINE_EXCEEDED  504  DEADLINE_EXCEEDED
│   └── InternalError       INTERNAL           500  INTERNAL
└── StartupError            the process must not serve; never sent to a caller
    ├── SettingsError       exit code 2
    └── BundleError         exit code 3
"""

from __future__ import annotations

from typing import ClassVar, Final


class RealFakeError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        message: What was wrong and what to do, safe to show to the caller: no
            payload bytes, no file paths of this machine, no text of another exception.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def let_go(error: BaseException) -> None:
    """Forget the frames that an error has passed, once it is answered and logged.

    A future among their variables holds the error in turn. Such a circle would keep a request's
    body in memory until the next garbage collection, counted by nobody.
    """
    chained: BaseException | None = error
    while chained is not None:
        chained.__traceback__ = None
        chained = chained.__cause__ or chained.__context__


class WireError(RealFakeError):
    """An error with a place in the protocol: what `code`, HTTP and gRPC status to answer.

    Args:
        reason: tells causes of one code apart in metrics; a word of the code, never of a client.
    """

    code: ClassVar[str]
    http_status: ClassVar[int]
    grpc_status: ClassVar[str]
    default_retry_after_s: ClassVar[float | None] = None

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason or self.code.lower()
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s

    def at(self, place: str) -> WireError:
        """Return the same error with `place` (``image[3]``) named in front of the message."""
        message = f"{place}: {self.message}"
        return type(self)(message, retry_after_s=self.retry_after_s, reason=self.reason)


class RequestError(WireError):
    """The request cannot succeed as it was sent."""


class InvalidRequest(RequestError):
    code, http_status, grpc_status = "INVALID_REQUEST", 400, "INVALID_ARGUMENT"


class InvalidImage(RequestError):
    code, http_status, grpc_status = "INVALID_IMAGE", 400, "INVALID_ARGUMENT"


class Unauthenticated(RequestError):
    code, http_status, grpc_status = "UNAUTHENTICATED", 401, "UNAUTHENTICATED"


class NotFound(RequestError):
    code, http_status, grpc_status = "NOT_FOUND", 404, "NOT_FOUND"


class MethodNotAllowed(RequestError):
    code, http_status, grpc_status = "METHOD_NOT_ALLOWED", 405, "UNIMPLEMENTED"


class RequestTimeout(RequestError):
    """The request did not arrive in full within `limits.receive_timeout_s`."""

    code, http_status, grpc_status = "REQUEST_TIMEOUT", 408, "DEADLINE_EXCEEDED"


class PayloadTooLarge(RequestError):
    code, http_status, grpc_status = "PAYLOAD_TOO_LARGE", 413, "RESOURCE_EXHAUSTED"


class ImageTooLarge(RequestError):
    code, http_status, grpc_status = "IMAGE_TOO_LARGE", 413, "INVALID_ARGUMENT"


class UnsupportedMedia(RequestError):
    code, http_status, grpc_status = "UNSUPPORTED_MEDIA", 415, "INVALID_ARGUMENT"


class RateLimited(RequestError):
    code, http_status, grpc_status = "RATE_LIMITED", 429, "RESOURCE_EXHAUSTED"
    default_retry_after_s = 1.0


class ServiceError(WireError):
    """This replica cannot answer now."""


class Overloaded(ServiceError):
    code, http_status, grpc_status = "OVERLOADED", 503, "UNAVAILABLE"
    default_retry_after_s = 1.0


class NotReady(ServiceError):
    code, http_status, grpc_status = "NOT_READY", 503, "UNAVAILABLE"
    default_retry_after_s = 1.0


class DeadlineExceeded(ServiceError):
    code, http_status, grpc_status = "DEADLINE_EXCEEDED", 504, "DEADLINE_EXCEEDED"


class InternalError(ServiceError):
    """Something broke here. The message is always the same: details belong in the log."""

    code, http_status, grpc_status = "INTERNAL", 500, "INTERNAL"
    PUBLIC_MESSAGE: Final = "internal error; quote the request id when you report it"

    def __init__(
        self,
        message: str = PUBLIC_MESSAGE,
        *,
        retry_after_s: float | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s, reason=reason)


class StartupError(RealFakeError):
    """The process cannot serve: print the message, exit with `exit_code`."""

    exit_code: ClassVar[int] = 1


class SettingsError(StartupError):
    exit_code = 2


class BundleError(StartupError):
    exit_code = 3
