"""Find the examples in the documentation, and run them as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = tuple(
    sorted(
        path.relative_to(ROOT).as_posix()
        for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    )
)
RUN_LIMIT_S = 180

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        place: `docs/protocols.md:12`.
        language: What the fence says; `bash` and `python` blocks are run.
    """

    place: str
    language: str
    code: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(f"{page}:{line}", match["language"], match["code"]))
    return found


def examples() -> list[Block]:
    """Every block that is run."""
    return [
        block for page in PAGES for block in blocks(page) if block.language in {"bash", "python"}
    ]


def run_block(block: Block, env: Mapping[str, str]) -> str:
    """Run a block in the repository's root.

    Args:
        env: Variables the documentation tells the reader to set.

    Returns:
        What it printed on stdout.
    """
    runner = {
        "bash": ["bash", "-euo", "pipefail", "-c"],
        "python": [sys.executable, "-c"],
    }[block.language]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*runner, block.code],
        cwd=ROOT,
        env={**os.environ, "PATH": path, **env},
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{block.place}: {done.stdout}\n{done.stderr}"
    return done.stdout
