"""The model card that goes with the debug bundle; every number comes from the run."""

from __future__ import annotations

from typing import Any

from hack.debug_bundle.training import ARCHITECTURE, SIDE


def model_card(fields: dict[str, Any], *, pictures: int, epochs: int) -> str:
    metrics, lines = fields["metrics"], fields["thresholds"]
    high, low = lines["fake_at_least"], lines["real_at_most"]
    calibration = f"15 bins, temperature {fields['temperature']}"
    return f"""# Debug bundle

**It detects nothing in the real world.** It tells procedural "photographs" from procedural
"fakes", both drawn by `hack/make_debug_bundle.py`. It is here so that the server, its tests and
its benchmarks run a trained, calibrated network without a download. Do not use its verdicts.

| | |
|---|---|
| architecture | timm `{ARCHITECTURE}`, {SIDE} px, 2 classes (`fake`, `real`) |
| trained on | {pictures} procedural pictures, {epochs} epochs, from random weights, on a CPU |
| held-out AUC | {metrics["auc"]} |
| held-out accuracy at 0.5 | {metrics["accuracy"]} |
| held-out expected calibration error | {metrics["ece"]} ({calibration}) |
| `fake` at or above | {high["value"]}: {high["false_positive_rate"]:.2%} of held-out photographs |
| `real` at or below | {low["value"]}: {low["false_negative_rate"]:.2%} of held-out fakes |

Held out: 2,000 pictures of another seed. Temperature and thresholds were chosen on 1,000 more.

**Photographs** are dead-leaves scenes with photon and read noise, then JPEG. **Fakes** are the
same scenes at half the size, enlarged by zero insertion and an uneven kernel as a transposed
convolution does it, with less noise, then JPEG. `samples/` holds two of each.

Make it again: `python hack/make_debug_bundle.py`. The same seed gives the same bytes on the same
machine; `--check` compares.
"""
