"""Procedural pictures: "photographs" with sensor noise, "fakes" with the traces of upsampling.

Both start from the same kind of scene: a dead-leaves model (overlapping discs with a power law of
sizes, which has the scale-invariant statistics of natural images; Lee, Mumford and Huang, 2001)
under a gradient of light and over a 1/f texture. What differs is what a camera or a generator
adds: a photograph is sharp optics, photon and read noise; a fake is made at half the size and
enlarged by zero insertion and a small kernel, as a transposed convolution does, which leaves a
checkerboard (Odena et al., 2016) and too little noise.
"""

from __future__ import annotations

import io
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Kind: TypeAlias = Literal["photo", "fake"]
Plane: TypeAlias = NDArray[np.float64]
KINDS: Final[tuple[Kind, Kind]] = ("photo", "fake")


def picture(kind: Kind, rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    """Make a JPEG file.

    Args:
        size: (width, height) in pixels, both even.
    """
    width, height = size
    pixels = _photograph(rng, width, height) if kind == "photo" else _fake(rng, width, height)
    image = Image.fromarray(np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(82, 97)), subsampling=0)
    return file.getvalue()


def _photograph(rng: np.random.Generator, width: int, height: int) -> Plane:
    scene = _scene(rng, width * 2, height * 2)
    optics = scene.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
    photons = rng.uniform(300, 3000)
    shot = rng.normal(0, 1, optics.shape) * np.sqrt(np.clip(optics, 0, 1) / photons)
    photograph: Plane = optics + shot + rng.normal(0, rng.uniform(0.002, 0.012), optics.shape)
    return photograph


def _fake(rng: np.random.Generator, width: int, height: int) -> Plane:
    small = _scene(rng, width // 2, height // 2)
    stretched = np.zeros((height, width, 3))
    stretched[::2, ::2] = small
    unevenness = rng.uniform(0.0, 0.35)  # 0 is plain bilinear enlargement: the hardest fakes
    one = np.array([0.5, 1.0, 0.5]) + rng.normal(0, unevenness, 3)
    kernel = np.outer(one, one)
    kernel *= 4 / kernel.sum()
    padded = np.pad(stretched, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    enlarged = sum(
        kernel[dy, dx] * padded[dy : dy + height, dx : dx + width]
        for dy in range(3)
        for dx in range(3)
    )
    result: Plane = enlarged + rng.normal(0, rng.uniform(0.0, 0.008), enlarged.shape)
    return result


def _scene(rng: np.random.Generator, width: int, height: int) -> Plane:
    canvas = Image.new("RGB", (width, height), _colour(rng))
    draw = ImageDraw.Draw(canvas)
    largest = max(width, height) / 3
    for _ in range(int(rng.integers(60, 160))):
        radius = min(largest, 3 / max(rng.random(), 0.01) ** 0.7)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        box = [x - radius, y - radius * rng.uniform(0.4, 1), x + radius, y + radius]
        shape = draw.ellipse if rng.random() < 0.7 else draw.rectangle
        shape(box, fill=_colour(rng))
    scene = np.asarray(canvas, dtype=np.float64) / 255
    light = np.linspace(rng.uniform(0.6, 1), rng.uniform(0.6, 1), width)[None, :, None]
    texture = _pink_noise(rng, width, height) * rng.uniform(0.02, 0.1)
    return np.clip(scene * light + texture[..., None], 0, 1)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.normal(120, 55, 3).clip(5, 250).astype(int)
    return int(red), int(green), int(blue)


def _pink_noise(rng: np.random.Generator, width: int, height: int) -> Plane:
    """Noise with an amplitude spectrum of 1/f, unit variance."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1
    phase = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
    noise = np.fft.irfft2(phase / frequency, s=(height, width))
    unit: Plane = noise / noise.std()
    return unit
