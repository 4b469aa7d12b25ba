"""Train, calibrate, set thresholds, measure: everything deterministic for a seed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform

from hack.debug_bundle.scenes import KINDS, Kind, picture

ARCHITECTURE: Final = "mobilenetv3_small_050"
SIDE: Final = 128
PRETRAINED_CFG: Final[dict[str, Any]] = {
    "input_size": [3, SIDE, SIDE],
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "center",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}
LABELS: Final = ("fake", "real")
FAKE: Final = 0
BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Dataset:
    """uint8 (n, H, W, 3) as the network sees them, and labels as indices into LABELS."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


def dataset(seed: int, count: int) -> Dataset:
    """Make `count` pictures, half of them fake, prepared by timm's evaluation transform."""
    rng = np.random.default_rng(seed)
    transform = create_transform(
        (3, SIDE, SIDE), interpolation="bicubic", crop_pct=1.0, use_prefetcher=True
    )
    pixels, labels = [], []
    for index in range(count):
        kind: Kind = KINDS[index % 2]
        width, height = (int(side) * 2 for side in rng.integers(SIDE // 2, SIDE * 5 // 8, 2))
        with Image.open(io.BytesIO(picture(kind, rng, (width, height)))) as image:
            chw = np.asarray(transform(image.convert("RGB")))
        pixels.append(np.ascontiguousarray(chw.transpose(1, 2, 0)))
        labels.append(FAKE if kind == "fake" else 1 - FAKE)
    return Dataset(np.stack(pixels), np.array(labels))


def to_input(pixels: NDArray[np.uint8]) -> torch.Tensor:
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return ((tensor - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)


def train(data: Dataset, *, seed: int, epochs: int) -> torch.nn.Module:
    """Train from random weights with AdamW and one cycle of the learning rate."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    model = timm.create_model(ARCHITECTURE, num_classes=len(LABELS), drop_rate=0.1)
    model = model.to(memory_format=torch.channels_last)
    steps = len(data.labels) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=epochs * steps
    )
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        model.train()
        total = 0.0
        order = rng.permutation(len(data.labels))
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            pixels = data.pixels[chosen]
            pixels = pixels[:, :, :: int(rng.choice([-1, 1]))]
            loss = torch.nn.functional.cross_entropy(
                model(to_input(np.ascontiguousarray(pixels))),
                torch.from_numpy(data.labels[chosen]),
                label_smoothing=0.02,
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}", flush=True)
    return model.eval()


def logits(model: torch.nn.Module, data: Dataset) -> NDArray[np.float64]:
    with torch.inference_mode():
        parts = [
            model(to_input(data.pixels[start : start + BATCH])).double().numpy()
            for start in range(0, len(data.labels), BATCH)
        ]
    return np.concatenate(parts)


def probabilities(values: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    scaled = values / temperature
    exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return result


def temperature(values: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The temperature with the least negative log likelihood (Guo et al., 2017), to 0.01."""
    rows = np.arange(len(labels))

    def loss(candidate: float) -> float:
        likelihood = probabilities(values, candidate)[rows, labels]
        return float(-np.log(likelihood + 1e-12).mean())

    return min((round(c, 2) for c in np.arange(0.3, 5.0, 0.01)), key=loss)


def thresholds(fake: NDArray[np.float64], labels: NDArray[np.int64], rate: float) -> dict[str, Any]:
    """The lines at which at most `rate` of either side is mistaken, and what they measured."""
    photos, fakes = fake[labels != FAKE], fake[labels == FAKE]
    high = float(np.quantile(photos, 1 - rate, method="higher")) + 1e-4
    low = float(np.quantile(fakes, rate, method="lower")) - 1e-4
    high, low = round(min(1.0, max(0.5, high)), 4), round(max(0.0, min(0.5, low)), 4)
    return {
        "fake_at_least": {
            "value": high,
            "false_positive_rate": round(float((photos >= high).mean()), 4),
        },
        "real_at_most": {
            "value": low,
            "false_negative_rate": round(float((fakes <= low).mean()), 4),
        },
    }


def measure(fake: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Area under the ROC curve, accuracy at 0.5, and expected calibration error (15 bins)."""
    truth = labels == FAKE
    _, place, ties = np.unique(fake, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[place]
    positives, negatives = int(truth.sum()), int((~truth).sum())
    auc = (ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    predicted = fake >= 0.5
    confidence = np.where(predicted, fake, 1 - fake)
    correct = predicted == truth
    bins = np.minimum((confidence * 15).astype(int), 14)
    ece = sum(
        abs(correct[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    )
    return {
        "auc": round(float(auc), 4),
        "accuracy": round(float(correct.mean()), 4),
        "ece": round(float(ece), 4),
    }


def sample(kind: Kind, seeds: Sequence[int], size: tuple[int, int]) -> list[bytes]:
    return [picture(kind, np.random.default_rng(seed), size) for seed in seeds]


def fake_probability(model: torch.nn.Module, file: bytes, temperature: float) -> float:
    """Classify one picture file as the server would."""
    transform = create_transform(
        (3, SIDE, SIDE), interpolation="bicubic", crop_pct=1.0, use_prefetcher=True
    )
    with Image.open(io.BytesIO(file)) as image:
        chw = np.asarray(transform(image.convert("RGB")))
    with torch.inference_mode():
        value = model(to_input(np.ascontiguousarray(chw.transpose(1, 2, 0))[None]))
    return float(probabilities(value.double().numpy(), temperature)[0, FAKE])
