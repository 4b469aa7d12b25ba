"""What is installed here: the image for CPUs has neither torch nor timm."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from predictor.bundle.files import GRAPH
from predictor.errors import SettingsError

WITH_TORCH: Final = "use the image built with VARIANT=cuda, which has it"

NO_GRAPH: Final = (
    f"the bundle has no {GRAPH} that its realfake.json names, and torch is not installed here to "
    "make one; run `python -m predictor model export` on the bundle where torch is, or "
    f"{WITH_TORCH}"
)


def installed(package: str) -> bool:
    """Whether it could be imported; importing torch to see would take seconds."""
    return find_spec(package) is not None


def require_torch(what: str, instead: str = "") -> None:
    """Refuse what needs torch where there is none, before an import fails in its own words.

    Args:
        instead: what else would do, as the beginning of a sentence that goes on.

    Raises:
        SettingsError: naming `what`, and where torch is.
    """
    if not installed("torch"):
        raise SettingsError(
            f"{what} needs torch, which is not installed here; {instead}{WITH_TORCH}"
        )
