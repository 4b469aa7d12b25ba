"""How a model's fake probabilities were distributed where its author looked: what drift is from."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from predictor.bundle.fields import Fields
from predictor.bundle.files import CONFIG, FORMAT_VERSION, GOLDEN, REALFAKE, read_own, sha256
from predictor.errors import BundleError

if TYPE_CHECKING:
    from predictor.bundle.manifest import Manifest

STEPS: Final = 20
MOST_BOUNDS: Final = 1000
FEWEST_PICTURES: Final = 1000
"""With fewer, chance alone moves a share by more than an alert on drift can leave to it."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Attributes: shares: of the pictures, those scored at most the bound of the same place."""

    bounds: tuple[float, ...]
    shares: tuple[float, ...]
    pictures: int

    def fields(self) -> dict[str, Any]:
        """As `realfake.json` has it."""
        return {
            "bounds": list(self.bounds),
            "shares": list(self.shares),
            "pictures": self.pictures,
        }

    def at(self, bound: float) -> float | None:
        """The share at a bound; None between two, where it would be a guess."""
        return dict(zip(self.bounds, self.shares, strict=True)).get(bound)


def read_reference(own: Fields) -> Reference | None:
    """Read `reference` of `realfake.json`, or None where there is none.

    Raises:
        BundleError: it is no distribution; the message names the field.
    """
    if own.values.get("reference") is None:
        return None
    given = own.mapping("reference", {})
    bounds, shares = given.numbers("bounds", ()), given.numbers("shares", ())
    if not 1 <= len(bounds) <= MOST_BOUNDS:
        raise given.wrong("bounds", f"must be 1 to {MOST_BOUNDS} numbers")
    if list(bounds) != sorted(set(bounds)) or bounds[0] < 0 or bounds[-1] != 1:
        raise given.wrong("bounds", "must rise from 0 or more, and end at 1")
    if len(shares) != len(bounds):
        raise given.wrong("shares", f"must be {len(bounds)} numbers, one for each of bounds")
    if list(shares) != sorted(shares) or shares[0] < 0 or shares[-1] != 1:
        raise given.wrong("shares", "must not fall, be 0 or more, and end at 1")
    pictures = given.number("pictures", 0)
    if pictures < 1 or pictures != int(pictures):
        raise given.wrong("pictures", "must be a whole number, at least 1")
    return Reference(bounds, shares, int(pictures))


def measure(scores: Sequence[float]) -> Reference:
    """The distribution of fake probabilities, of at least one picture."""
    ordered = sorted(scores)
    bounds = tuple(step / STEPS for step in range(1, STEPS + 1))
    shares = tuple(round(bisect_right(ordered, bound) / len(ordered), 6) for bound in bounds)
    return Reference(bounds, shares, len(ordered))


def write_reference(manifest: Manifest, scores: Path) -> Reference:
    """Measure the reference from what `score` wrote, and put it into a bundle's `realfake.json`.

    The bundle becomes another one by it: its digest changes.

    Raises:
        BundleError: the scores are of another model, too few, or no scores at all.
    """
    reference = measure(_read_scores(scores, manifest.digest))
    own = read_own(manifest.path)
    document = {
        "format_version": FORMAT_VERSION,
        **({} if own is None else own.values),
        "reference": reference.fields(),
        "files": dict(manifest.files) or _files(manifest),
    }
    target = manifest.path / REALFAKE
    partial = target.with_name(f".{REALFAKE}.new")
    try:
        partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise BundleError(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):  # gone already, or not ours to remove
            partial.unlink()
    return reference


def _files(manifest: Manifest) -> Mapping[str, str]:
    named = (CONFIG, manifest.weights.name, GOLDEN)
    there = (name for name in named if (manifest.path / name).is_file())
    return {name: sha256(manifest.path / name) for name in there}


def _read_scores(journal: Path, digest: str) -> list[float]:
    scores = []
    try:
        with journal.open(encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                if record["code"] is not None:  # no picture, so no score
                    continue
                if record["model_digest"] != digest:
                    raise BundleError(
                        f"{journal}: was scored with another model, or before this one changed; "
                        "score the pictures again"
                    )
                score = float(record["fake_prob"])
                if not 0 <= score <= 1:
                    raise ValueError
                scores.append(score)
    except OSError as error:
        raise BundleError(f"{journal}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"{journal}: is not what `score --output *.jsonl` writes") from None
    if len(scores) < FEWEST_PICTURES:
        raise BundleError(
            f"{journal}: has {len(scores)} scores; fewer than {FEWEST_PICTURES} say little"
        )
    return scores
