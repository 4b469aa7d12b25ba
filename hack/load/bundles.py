"""What load is driven against: the committed bundle, or any of timm's networks."""

from __future__ import annotations

from pathlib import Path

from hack.load.server import BUNDLE
from predictor.bundle.export import export


def bundle_of(name: str, directory: Path) -> Path:
    """The committed bundle for `debug`, else a network of timm with random weights and a graph.

    Random weights cost the same as trained ones.

    Args:
        directory: a new bundle is made below it.
    """
    if name == "debug":
        return BUNDLE
    import timm
    from timm.models import save_for_hf

    path = directory / name
    module = timm.create_model(name, num_classes=2).eval()
    save_for_hf(
        module, str(path), model_config={"label_names": ["fake", "real"]}, safe_serialization=True
    )
    export(path)
    return path
