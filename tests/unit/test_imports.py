"""What a module loads: heavy and foreign packages only where they belong."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "torchvision", "kserve", "fastapi", "grpc", "uvicorn", "pandas")


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in a fresh interpreter after `statement`."""
    script = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "predictor.cli",
        "predictor.errors",
        "predictor.settings",
        "predictor.security.api_keys",
        "predictor.security.audit",
        "predictor.security.rate_limits",
        "predictor.security.key_store",
        "predictor.telemetry.logging",
        "predictor.bundle.manifest",
        "predictor.inference.batcher",
        "predictor.inference.classifier",
        "predictor.inference.decoding",
        "predictor.inference.engines",
        "predictor.inference.pictures",
        "predictor.protocol.legacy",
        "predictor.protocol.schemas",
        "predictor.protocol.v1",
        "predictor.protocol.v2",
    ],
)
def test_a_light_module_stays_light(module: str) -> None:
    assert loaded_by(f"import {module}").isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["decoding", "decode_worker"])
def test_decoding_untrusted_bytes_needs_pillow_and_numpy_only(module: str) -> None:
    assert loaded_by(f"import predictor.inference.{module}").isdisjoint(
        {*HEAVY, "pydantic", "yaml", "asyncio"}
    )


@pytest.mark.parametrize(
    "command",
    [
        *(["--help"], ["serve", "--help"], ["check"], ["keys", "new"]),
        ["audit", "verify", "/dev/null"],
    ],
)
def test_a_small_command_stays_light(command: list[str]) -> None:
    statement = (
        "import contextlib, io\nfrom predictor.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    main({command!r})"
    )
    assert loaded_by(statement).isdisjoint(HEAVY)
