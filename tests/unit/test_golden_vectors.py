"""Golden vectors: read where they are the model's, refused where they cannot be."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from predictor.bundle.files import GOLDEN, write_realfake_json
from predictor.bundle.manifest import read_golden_vectors, read_manifest
from predictor.errors import BundleError
from tests.unit.bundles import OWN_FIELDS

GOOD_GOLDEN: dict[str, Any] = {
    "pixels": np.zeros((2, 32, 48, 3), np.uint8),
    "probabilities": np.full((2, 2), 0.5, np.float32),
}


def golden_of(bundle: Path, tensors: dict[str, Any]) -> Any:
    save_file(tensors, bundle / GOLDEN)
    write_realfake_json(bundle, OWN_FIELDS)
    return read_golden_vectors(read_manifest(bundle))


def test_golden_vectors_are_read(bundle: Path) -> None:
    assert read_golden_vectors(read_manifest(bundle)) is None
    assert golden_of(bundle, GOOD_GOLDEN).probabilities.shape == (2, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"pixels": np.zeros((2, 48, 32, 3), np.uint8)},
        {"pixels": np.zeros((2, 32, 48, 3), np.float32)},
        {"pixels": np.zeros((3, 32, 48, 3), np.uint8)},
        {"pixels": np.zeros((), np.uint8)},
        {
            "pixels": np.zeros((0, 32, 48, 3), np.uint8),
            "probabilities": np.zeros((0, 2), np.float32),
        },
        {"probabilities": np.zeros((2, 3), np.float32)},
        {"probabilities": np.full((2, 2), np.nan, np.float32)},
        {"probabilities": np.zeros((2, 2), np.complex64)},
    ],
)
def test_golden_vectors_of_another_model_are_refused(change: dict[str, Any], bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"golden\.safetensors: must hold pixels"):
        golden_of(bundle, {**copy.copy(GOOD_GOLDEN), **change})


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", None])
def test_golden_vectors_that_are_no_arrays_are_refused(dtype: str | None, bundle: Path) -> None:
    head = json.dumps({"pixels": {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]}}).encode()
    (bundle / GOLDEN).write_bytes(len(head).to_bytes(8, "little") + head if dtype else b"cut")
    write_realfake_json(bundle, OWN_FIELDS)
    # Where ml_dtypes is imported, numpy can read BF16, and finds out that it is no uint8.
    with pytest.raises(BundleError, match=r"golden\.safetensors: .*make the bundle again"):
        read_golden_vectors(read_manifest(bundle))
