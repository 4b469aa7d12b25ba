"""Pictures to send that are as hard to decode as photographs, and are nobody's."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def photo(width: int, height: int, quality: int) -> bytes:
    """Clouds with grain, as a JPEG: as many bytes a pixel as a photograph."""
    random = np.random.default_rng(0)
    clouds = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    large = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = random.normal(0, 5, large.shape[:2])[..., None]
    file = io.BytesIO()
    picture = Image.fromarray(np.clip(large + grain, 0, 255).astype(np.uint8))
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()
