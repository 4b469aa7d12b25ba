"""Logs: one JSON object per line, whoever writes it and whatever is in it."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from predictor.telemetry.logging import configure_logging, request_id_var, trace_id_var


class Lines:
    def __init__(self) -> None:
        self.stream = io.StringIO()

    def __call__(self) -> list[dict[str, Any]]:
        return [json.loads(line, parse_constant=_refuse) for line in self.text().splitlines()]

    def text(self) -> str:
        return self.stream.getvalue()


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Configured logging that ends with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    lines = Lines()
    configure_logging("INFO", lines.stream)
    yield lines
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


def test_a_line_has_the_fixed_fields_first(lines: Lines) -> None:
    logging.getLogger("predictor.test").info("hello %s", "you", extra={"status": 200, "ms": 1.5})
    (line,) = lines()
    assert list(line) == ["timestamp", "level", "logger", "message", "status", "ms"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
    assert (line["level"], line["logger"]) == ("INFO", "predictor.test")
    assert (line["message"], line["status"], line["ms"]) == ("hello you", 200, 1.5)


def test_a_line_names_its_request_and_trace(lines: Lines) -> None:
    request, trace = request_id_var.set("r-1"), trace_id_var.set("t-1")
    logging.getLogger("any.library").warning("inside")
    request_id_var.reset(request)
    trace_id_var.reset(trace)
    logging.getLogger("any.library").warning("outside")
    inside, outside = lines()
    assert (inside["request_id"], inside["trace_id"]) == ("r-1", "t-1")
    assert outside.keys().isdisjoint({"request_id", "trace_id"})


@pytest.mark.parametrize("end", ["\n", "\r", "\x0b", "\x85", "\u2028", "\u2029", "\x00"])
def test_no_text_can_forge_a_line(lines: Lines, end: str) -> None:
    forged = f'a{end}{{"level": "ERROR"}}'
    logging.getLogger(f"x{end}y").info(forged, extra={f"k{end}": forged})
    assert len(re.split(r"[\n\r\x0b\x85\u2028\u2029]", lines.text().removesuffix("\n"))) == 1
    (line,) = lines()
    assert (line["message"], line[f"k{end}"]) == (forged, forged)


def test_extra_fields_cannot_replace_the_fixed_ones(lines: Lines) -> None:
    logging.getLogger("a").info("b", extra={"level": "FORGED", "timestamp": 0, "logger": "c"})
    logging.getLogger("a").info({"message": "dict", "level": "FORGED"})
    assert [(line["level"], line["logger"]) for line in lines()] == [("INFO", "a")] * 2


def test_numbers_that_json_lacks_stay_valid_json(lines: Lines) -> None:
    nested = {"a": [float("inf")], 1: (float("nan"),)}
    logging.getLogger("a").info("b", extra={"x": float("nan"), "nested": nested, "o": object()})
    (line,) = lines()
    assert (line["x"], line["nested"]) == ("nan", {"a": ["inf"], "1": ["nan"]})


def fail() -> None:
    try:
        raise KeyError("secret-of-a-client")
    except KeyError as error:
        raise ValueError("another secret-of-a-client") from error


def test_an_error_outside_a_request_is_told_in_full(lines: Lines) -> None:
    try:
        fail()
    except ValueError:
        logging.getLogger("a").exception("broken")
    (line,) = lines()
    assert "ValueError: another secret-of-a-client" in line["exc_info"]
    assert "in fail" in line["exc_info"]


def test_an_error_inside_a_request_keeps_the_clients_bytes_out(lines: Lines) -> None:
    token = request_id_var.set("r-1")
    try:
        fail()
    except ValueError as error:
        logging.getLogger("a").exception("broken")
        try:
            raise ExceptionGroup("secret-of-a-client", [error, error])
        except ExceptionGroup:
            logging.getLogger("a").exception("broken twice")
    request_id_var.reset(token)
    one, group = lines()
    for line in (one, group):
        assert "secret" not in json.dumps(line)
        assert "builtins.ValueError" in line["exc_info"]
        assert "builtins.KeyError" in line["exc_info"]
        assert "in fail" in line["exc_info"]
    assert "ExceptionGroup" in group["exc_info"]


def test_warnings_are_logged(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    (line,) = lines()
    assert line["logger"] == "py.warnings"
    assert "old thing" in line["message"]


def test_libraries_with_handlers_of_their_own_are_adopted() -> None:
    own = io.StringIO()
    for name in ("uvicorn.error", "kserve", "some.library"):
        logger = logging.getLogger(name)
        logger.addHandler(logging.StreamHandler(own))
        logger.propagate = False
    lines = Lines()
    root_handlers = logging.getLogger().handlers[:]
    try:
        configure_logging("INFO", lines.stream)
        for name in ("uvicorn.error", "kserve", "some.library"):
            logging.getLogger(name).warning("hello")
    finally:
        logging.captureWarnings(False)
        logging.getLogger().handlers[:] = root_handlers
    assert own.getvalue() == ""
    assert [line["logger"] for line in lines()] == ["uvicorn.error", "kserve", "some.library"]


def test_chatter_is_left_out_unless_debugging(lines: Lines) -> None:
    for name in ("uvicorn.error", "kserve", "httpx", "PIL.PngImagePlugin"):
        logging.getLogger(name).info("chatter")
    logging.getLogger("uvicorn.access").critical("said by the edge")
    assert lines() == []
    configure_logging("DEBUG", lines.stream)
    logging.getLogger("kserve").debug("chatter")
    assert [line["message"] for line in lines()] == ["chatter"]


UNCAUGHT = """
import gc, sys, threading
from predictor.telemetry.logging import configure_logging
configure_logging("INFO")
def die(): raise ValueError("in\\na thread")
thread = threading.Thread(target=die, name="worker")
thread.start(); thread.join()
def leave(): raise SystemExit
thread = threading.Thread(target=leave); thread.start(); thread.join()
class Bad:
    def __del__(self): raise OSError("too late")
bad = Bad(); del bad; gc.collect()
raise RuntimeError("at\\nthe end")
"""


def test_what_nobody_catches_is_logged_and_still_ends_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNCAUGHT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["message"] for line in lines] == [
        "uncaught error in a thread",
        "error nobody could catch",
        "uncaught error",
    ]
    assert lines[0]["thread_name"] == "worker"
    assert "RuntimeError: at\nthe end" in lines[2]["exc_info"]


def test_ctrl_c_is_not_an_error() -> None:
    script = (
        "from predictor.telemetry.logging import configure_logging\n"
        "configure_logging('INFO')\nraise KeyboardInterrupt\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("", "")
