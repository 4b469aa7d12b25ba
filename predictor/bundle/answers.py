"""What a module answers, by the plainest way there is: the measure for every faster one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from predictor.bundle.manifest import Manifest, Preprocessing


def normalise(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> torch.Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W), as torchvision does it."""
    mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std).view(1, 3, 1, 1)
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


def answers(
    module: torch.nn.Module, manifest: Manifest, pixels: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Probabilities float32 (N, K), calibrated, of uint8 (N, H, W, 3)."""
    with torch.inference_mode():
        logits = module(normalise(pixels, manifest.preprocessing))
    return probabilities(logits, manifest)


def probabilities(logits: torch.Tensor, manifest: Manifest) -> NDArray[np.float32]:
    calibrated = torch.softmax(logits.double() / manifest.temperature, dim=1).float()
    result: NDArray[np.float32] = calibrated.numpy()
    return result
