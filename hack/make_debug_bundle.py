"""Make `checkpoints/debug/`: a small, honest model bundle that needs no download.

    python hack/make_debug_bundle.py [--output checkpoints/debug] [--seed 7] [--check]

The same seed gives the same bytes on the same machine; `--check` makes the bundle again
beside the committed one and compares.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

sys.path.insert(0, str(Path(__file__).parents[1]))

from hack.debug_bundle import training
from hack.debug_bundle.card import model_card
from hack.debug_bundle.scenes import KINDS
from predictor.bundle.export import export
from predictor.bundle.files import CONFIG, GOLDEN, REALFAKE, WEIGHTS, write_realfake_json
from predictor.bundle.reference import measure

VERSION: Final = "debug-1"
ERROR_RATE: Final = 0.005
GOLDEN_COUNT: Final = 4
SAMPLE_SIZE: Final = (192, 144)
THREADS: Final = 2


def make(output: Path, *, seed: int, pictures: int, epochs: int) -> None:
    """Write the whole bundle into `output`."""
    torch.set_num_threads(THREADS)
    output.mkdir(parents=True, exist_ok=True)
    print(f"making {pictures} pictures to train on", flush=True)
    model = training.train(training.dataset(seed, pictures), seed=seed, epochs=epochs)
    calibration = training.dataset(seed + 1, 1000)
    held_out = training.dataset(seed + 2, 2000)

    values = training.logits(model, calibration)
    temperature = training.temperature(values, calibration.labels)
    fake = training.probabilities(values, temperature)[:, training.FAKE]
    lines = training.thresholds(fake, calibration.labels, ERROR_RATE)
    answers = training.probabilities(training.logits(model, held_out), temperature)
    metrics = training.measure(answers[:, training.FAKE], held_out.labels)
    _measure_lines(lines, answers[:, training.FAKE], held_out.labels)

    _write_model(output, model)
    golden: dict[str, NDArray[Any]] = {
        "pixels": np.ascontiguousarray(held_out.pixels[:GOLDEN_COUNT]),
        "probabilities": answers[:GOLDEN_COUNT].astype(np.float32),
    }
    save_file(golden, output / GOLDEN)
    fields: dict[str, Any] = {
        "version": VERSION,
        "temperature": temperature,
        "labels": {"fake": ["fake"], "real": ["real"]},
        "thresholds": lines,
        "metrics": metrics,
        "reference": measure(answers[:, training.FAKE].tolist()).fields(),
    }
    write_realfake_json(output, fields)
    export(output)
    (output / "README.md").write_text(model_card(fields, pictures=pictures, epochs=epochs))
    _write_samples(output / "samples", model, temperature, lines, seed)
    print(json.dumps({"temperature": temperature, **metrics, **lines}))


def _measure_lines(lines: dict[str, Any], fake: Any, labels: Any) -> None:
    """State the error rates on pictures that did not choose the lines."""
    high, low = lines["fake_at_least"], lines["real_at_most"]
    photos, fakes = fake[labels != training.FAKE], fake[labels == training.FAKE]
    high["false_positive_rate"] = round(float((photos >= high["value"]).mean()), 4)
    low["false_negative_rate"] = round(float((fakes <= low["value"]).mean()), 4)


def _write_model(output: Path, model: torch.nn.Module) -> None:
    config = {
        "architecture": training.ARCHITECTURE,
        "num_classes": len(training.LABELS),
        "label_names": list(training.LABELS),
        "pretrained_cfg": training.PRETRAINED_CFG,
    }
    (output / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_tensors(state, output / WEIGHTS)


def _write_samples(
    directory: Path, model: torch.nn.Module, temperature: float, lines: Any, seed: int
) -> None:
    """Two pictures of each kind on which the model is sure and right: a demonstration."""
    directory.mkdir(exist_ok=True)
    for kind in KINDS:
        found = 0
        for candidate in range(seed * 1000, seed * 1000 + 200):
            file = training.sample(kind, [candidate], SAMPLE_SIZE)[0]
            fake = training.fake_probability(model, file, temperature)
            sure = (
                fake <= lines["real_at_most"]["value"] / 2
                if kind == "photo"
                else fake >= (1 + lines["fake_at_least"]["value"]) / 2
            )
            if sure:
                found += 1
                (directory / f"{kind}-{found}.jpg").write_bytes(file)
            if found == 2:
                break
        else:
            raise SystemExit(f"no sample of kind {kind} was answered confidently")


def check(committed: Path, *, seed: int, pictures: int, epochs: int) -> int:
    """Make the bundle again and compare; 1 when a byte differs."""
    with tempfile.TemporaryDirectory() as temporary:
        again = Path(temporary)
        make(again, seed=seed, pictures=pictures, epochs=epochs)
        names = [
            str(path.relative_to(committed)) for path in committed.rglob("*") if path.is_file()
        ]
        _, different, missing = filecmp.cmpfiles(committed, again, names, shallow=False)
    for name in different + missing:
        print(f"differs: {name}", file=sys.stderr)
    return 1 if different or missing else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("checkpoints/debug"))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=3200)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--check", action="store_true", help=f"compare; see {REALFAKE}")
    args = parser.parse_args()
    options = {"seed": args.seed, "pictures": args.pictures, "epochs": args.epochs}
    if args.check:
        return check(args.output, **options)
    make(args.output, **options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
