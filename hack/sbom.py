"""Write the software bill of materials of the image's Python packages, as CycloneDX JSON.

It is made from the lock of the variant, so it names exactly what an install may use, with hashes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCKS = {"cuda": "runtime.txt", "cpu": "cpu.txt"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--variant", choices=sorted(LOCKS), default="cuda")
    options = parser.parse_args()
    output: Path = options.output
    output.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [
            *(Path(sys.executable).with_name("cyclonedx-py"), "requirements"),
            *("--pyproject", ROOT / "pyproject.toml", "--mc-type", "application"),
            *("--spec-version", "1.6", "--output-format", "JSON", "--output-reproducible"),
            *("--validate", "--output-file", output.resolve()),
            ROOT / "requirements" / LOCKS[options.variant],
        ],
        # A developer's index must not be named in what is published.
        env={name: value for name, value in os.environ.items() if not name.startswith("PIP_")},
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
