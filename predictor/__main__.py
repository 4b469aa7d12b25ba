"""`python -m predictor`."""

from __future__ import annotations

import sys

from predictor.cli import main

if __name__ == "__main__":
    sys.exit(main())
