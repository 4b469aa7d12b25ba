"""The locks agree: what the small image runs is what the large one runs, and what is tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parents[2] / "requirements"


def pins(lock: str) -> dict[tuple[str, str], list[str]]:
    """Hashes by (requirement with its marker, version)."""
    text = (REQUIREMENTS / lock).read_text()
    found = re.findall(r"^([a-z0-9][^=\n]*)==([^\n\\]+?) *((?:\\\n +--hash=\S+ ?)+)", text, re.M)
    assert len(found) == len(re.findall(r"^[a-z0-9]", text, re.M))
    return {(name, version): sorted(hashes.split()) for name, version, hashes in found}


@pytest.mark.parametrize(
    ("small", "large"), [("cpu.txt", "runtime.txt"), ("runtime.txt", "dev.txt")]
)
def test_a_lock_is_part_of_the_next_one(small: str, large: str) -> None:
    """Two versions of one package would be tested in one image and served by the other."""
    whole = pins(large)
    assert len(pins(small)) > 50
    assert {pin: whole.get(pin) for pin in pins(small)} == pins(small)


def test_the_lock_for_cpus_has_nothing_of_torch() -> None:
    names = {name for name, _ in pins("cpu.txt")}
    assert "onnxruntime" in names
    assert [name for name in names if re.match("torch|timm|triton|cuda|nvidia|onnx$", name)] == []
