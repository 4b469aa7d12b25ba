"""One JSON object per line on stdout, from every logger, warning and traceback of the process."""

from __future__ import annotations

import errno
import logging
import math
import sys
import threading
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TextIO

import orjson
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

request_id_var: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
trace_id_var: Final[ContextVar[str | None]] = ContextVar("trace_id", default=None)
span_id_var: Final[ContextVar[str | None]] = ContextVar("span_id", default=None)
_IDS: Final = (("request_id", request_id_var), ("trace_id", trace_id_var), ("span_id", span_id_var))

# The edge writes one access line for each request, on both protocols; these would say it again.
_SILENCED: Final = ("uvicorn.access", "kserve.trace")
# DEBUG of these repeats what a client sent: EXIF texts, the bytes of a form.
_TELLTALE: Final = ("PIL", "python_multipart")
# INFO of these is about their own workings.
_QUIET: Final = (
    *("asyncio", "grpc", "httpx", "kserve", "opentelemetry", "timm", "urllib3", "uvicorn"),
)

_OWN: Final = frozenset(RESERVED_ATTRS)
"""What every record has; the rest was given as `extra`."""
# Whatever is no plain value is left to python-json-logger.
_PLAIN: Final = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)

log = logging.getLogger("predictor.logging")
_uncaught = logging.getLogger("predictor.uncaught")


class _Formatter(JsonFormatter):
    """Fixed fields first, then whatever a call gave as `extra`."""

    def __init__(self, severity_field: str) -> None:
        self._severity_field = severity_field
        # ASCII only: U+2028 and its kin end a line for some log collectors.
        super().__init__(json_ensure_ascii=True)

    def add_fields(
        self,
        log_data: dict[str, Any],
        record: logging.LogRecord,
        message_dict: dict[str, Any],
    ) -> None:
        moment = datetime.fromtimestamp(record.created, UTC)
        log_data["timestamp"] = moment.isoformat(timespec="milliseconds")[: -len("+00:00")] + "Z"
        log_data[self._severity_field] = record.levelname
        log_data["logger"] = record.name
        log_data["message"] = record.message
        for name, variable in _IDS:
            if (value := variable.get()) is not None:
                log_data[name] = value
        # Not by python-json-logger, whose way through formats, renamings and defaults that are not
        # used here costs as much as all the rest of a line.
        for name, value in message_dict.items():
            log_data.setdefault(name, _finite(value))
        for name, value in record.__dict__.items():
            if name not in _OWN and name not in log_data and not str(name).startswith("_"):
                log_data[name] = value if type(value) is str else _finite(value)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """By orjson; what it cannot say, or not in ASCII, by the standard library."""
        try:
            line = orjson.dumps(log_data, option=_PLAIN)
        except TypeError:
            return super().jsonify_log_record(log_data)
        return line.decode() if line.isascii() else super().jsonify_log_record(log_data)

    def formatException(self, ei: Any) -> str:
        """The traceback; without the error's own text while a request is being served."""
        error: BaseException | None = ei[1]
        if error is None or request_id_var.get() is None:
            return "".join(traceback.format_exception(*ei)).rstrip()
        return _where(error)


def _where(error: BaseException) -> str:
    """Types and places of an error, then of its causes. Its text may quote what a client sent."""
    parts: list[str] = []
    seen: set[int] = set()
    pending: list[BaseException] = [error]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        parts.append(f"{type(current).__module__}.{type(current).__qualname__}")
        for frame in traceback.extract_tb(current.__traceback__):
            parts.append(f"  {frame.filename}:{frame.lineno} in {frame.name}")
        if isinstance(current, BaseExceptionGroup):
            pending.extend(current.exceptions)
        cause = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        if cause is not None:
            pending.append(cause)
    return "\n".join(parts)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): _finite(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(member) for member in value]
    return value


def configure_logging(
    level: str = "INFO", stream: TextIO | None = None, *, severity_field: str = "level"
) -> None:
    """Send every logger, warning and uncaught error through one handler on the root.

    Call it before anything else logs; calling it again replaces what it set up.

    Args:
        level: Least severe level: DEBUG, INFO, WARNING or ERROR.
        stream: Stands in for stdout.
        severity_field: What the field that says INFO is called.
    """
    # No line says these: https://docs.python.org/3/howto/logging.html#optimization
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # nor the caller's file and line
    handler = logging.StreamHandler(sys.stdout if stream is None else stream)
    handler.setFormatter(_Formatter(severity_field))
    logging.getLogger().handlers[:] = [handler]
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.disabled = False
    set_level(level)
    for name in _SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # A filter of one function is not added twice.
    logging.getLogger("grpc._cython.cygrpc").addFilter(_quotes_no_metadata)
    # kserve installs its own handlers unless it finds one here.
    logging.getLogger("kserve").addHandler(logging.NullHandler())
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


def set_level(level: str) -> None:
    """Log from `level` on, at any time; libraries follow at a distance.

    Args:
        level: Least severe level: DEBUG, INFO, WARNING or ERROR.
    """
    root = logging.getLogger()
    root.setLevel(level)
    quiet = logging.NOTSET if level == "DEBUG" else max(logging.WARNING, root.level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(quiet)
    for name in _TELLTALE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def toggle_debug(usual: str) -> None:
    """Go to DEBUG, or back to the usual level; to INFO where DEBUG is the usual one."""
    calm = "INFO" if usual == "DEBUG" else usual
    now = calm if logging.getLogger().level == logging.DEBUG else "DEBUG"
    set_level("INFO")
    log.info("log level changed", extra={"log_level": now})
    set_level(now)


def is_configured() -> bool:
    return _handler() is not None


def _handler() -> logging.StreamHandler[TextIO] | None:
    """Ours; a library may have put another beside it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and isinstance(handler.formatter, _Formatter):
            return handler
    return None


class LogLines:
    """Where the log goes, for lines that are finished already."""

    def __init__(self) -> None:
        self._buffered: bytes | None = None

    def write(self, lines: bytes) -> None:
        """Write lines, in ASCII, between those of the log.

        Raises:
            OSError: they cannot be written now. The stream has them, so that to write the same
                object again writes them once.
        """
        handler = _handler()
        if handler is None:
            raise OSError(errno.EBADF, "logging is not configured")
        handler.acquire()
        try:
            if lines is not self._buffered:
                handler.stream.write(lines.decode("ascii"))
                self._buffered = lines
            handler.stream.flush()
            self._buffered = None
        except ValueError:
            raise OSError(errno.EBADF, "the stream is closed") from None
        finally:
            handler.release()

    def close(self) -> None:
        """The log stays open."""


def _quotes_no_metadata(record: logging.LogRecord) -> bool:
    """gRPC logs a header value that is not UTF-8 in full, an API key as soon as anything."""
    return not str(record.msg).startswith("Invalid encoding")


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    _uncaught.critical("uncaught error", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(details: threading.ExceptHookArgs) -> None:
    if issubclass(details.exc_type, SystemExit):
        return
    error = details.exc_value or details.exc_type()
    name = details.thread.name if details.thread is not None else "unknown"
    _uncaught.critical(
        "uncaught error in a thread",
        exc_info=(details.exc_type, error, details.exc_traceback),
        extra={"thread_name": name},
    )


def _log_unraisable(details: sys.UnraisableHookArgs) -> None:
    error = details.exc_value or details.exc_type()
    _uncaught.error(
        "error nobody could catch", exc_info=(details.exc_type, error, details.exc_traceback)
    )
