"""What we rely on ONNX Runtime for, and what it is not to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, sys
from pathlib import Path
from predictor.bundle.graph import open_graph
from predictor.bundle.manifest import read_manifest
manifest = read_manifest(Path(sys.argv[1]))
open_graph(manifest.path / "model.onnx", manifest)
print(len(os.listdir("/proc/self/task")))
"""


def test_it_reports_to_nobody_and_starts_no_thread(tmp_path: Path) -> None:
    """Since 1.29 it has telemetry, on by default: a thread, files below the home, uploads."""
    usual = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT / "checkpoints" / "debug")],
        # One thread of numpy's own; and a home where it would leave its identifier.
        env={**usual, "OPENBLAS_NUM_THREADS": "1", "HOME": str(tmp_path), "CI": ""},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.split() == ["1"]
    assert list(tmp_path.rglob("*")) == []
