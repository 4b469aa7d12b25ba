"""What load is driven against: the committed bundle, or any of timm's networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hack.load.server import BUNDLE
from predictor.bundle.export import export


def bundle_of(name: str, directory: Path) -> Path:
    """The committed bundle for `debug`, else a network of timm with random weights and a graph.

    Random weights cost the same as trained ones. The last layer's are made larger: otherwise all
    pictures get almost the same answer, and a wrong one looks right.

    Args:
        directory: a new bundle is made below it.
    """
    if name == "debug":
        return BUNDLE
    import timm
    import torch
    from timm.models import save_for_hf

    path = directory / name
    torch.manual_seed(0)
    module: Any = timm.create_model(name, num_classes=2).eval()
    with torch.no_grad():
        module.get_classifier().weight *= 10
    save_for_hf(
        module, str(path), model_config={"label_names": ["fake", "real"]}, safe_serialization=True
    )
    export(path)
    return path
