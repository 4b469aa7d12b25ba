"""The predictor where torch is not installed, as in the image for CPUs: real processes.

What works there, and what cannot: each refusal names what to do. `cpu_environment` makes the place.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from predictor.bundle.files import GOLDEN, GRAPH, REALFAKE, WEIGHTS, sha256
from predictor.bundle.manifest import read_manifest
from predictor.bundle.reference import FEWEST_PICTURES
from predictor.inference.resampling import RESIZER
from tests.server import cpu_environment
from tests.server.process import BUNDLE, ServerProcess
from tests.server.scrape import scrape
from tests.server.test_clients import ROUTES, TOLERANCE

DIGEST = read_manifest(BUNDLE).digest
ELSEWHERE = "use the image built with VARIANT=cuda, which has it"
Ask = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cpu_environment.make(tmp_path_factory.mktemp("cpu"))


@pytest.fixture(scope="module")
def served(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    settings = {"REALFAKE_MODEL__DIGEST": DIGEST, "REALFAKE_AUDIT__DESTINATION": "stdout"}
    process = ServerProcess(tmp_path_factory.mktemp("served"), settings, python=python)
    try:
        yield process.wait_ready()
    finally:
        assert process.stop() == 0


@pytest.fixture
def ask(python: Path) -> Ask:
    """Run `python -m predictor` there."""
    return lambda *arguments: cpu_environment.run(python, "-m", "predictor", *arguments)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))


def change_own(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    own = json.loads((bundle / REALFAKE).read_text())
    change(own)
    (bundle / REALFAKE).write_text(json.dumps(own))


def without_graph(bundle: Path) -> None:
    """As it was before `model export`."""
    (bundle / GRAPH).unlink()

    def forget(own: dict[str, Any]) -> None:
        del own["onnx"], own["files"][GRAPH]

    change_own(bundle, forget)


def of_another_training(bundle: Path) -> None:
    """Golden vectors that the network does not answer, with the digest of what they are."""
    golden = load_file(bundle / GOLDEN)
    golden["probabilities"] = golden["probabilities"][:, ::-1].copy()
    save_file(golden, bundle / GOLDEN)
    change_own(bundle, lambda own: own["files"].update({GOLDEN: sha256(bundle / GOLDEN)}))


def damaged(bundle: Path) -> None:
    with (bundle / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")


@pytest.mark.parametrize("package", ["torch", "torchvision", "timm", "onnx", "triton"])
def test_what_the_lock_leaves_out_is_not_there(package: str, python: Path) -> None:
    """Or nothing below would prove a thing."""
    done = cpu_environment.run(python, "-c", f"import {package}")
    assert f"No module named '{package}'" in done.stderr


@pytest.mark.parametrize("route", [route for route in ROUTES if route != "score"])
def test_every_route_answers_as_with_torch_at_hand(
    route: str, served: ServerProcess, server: ServerProcess, photo: bytes
) -> None:
    expected = ROUTES[route](server, photo)
    assert ROUTES[route](served, photo) == pytest.approx(expected, abs=TOLERANCE)


def test_the_pinned_bundle_serves_on_onnx_with_its_reference(served: ServerProcess) -> None:
    ready = served.wait_for_log("ready")
    assert (ready["engine"], ready["device"], ready["digest"]) == ("onnx", "cpu", DIGEST)
    assert ready["resizer"] == RESIZER
    assert scrape(served).value("inference_fake_probability_reference", le="0.5") > 0


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without_graph, "run `python -m predictor model export` on the bundle where torch is"),
        (of_another_training, "golden vectors: an answer differs by"),
        (damaged, f"{WEIGHTS}: its SHA-256 is not the one"),
    ],
)
def test_a_bundle_that_cannot_be_served_there_is_refused(
    spoil: Callable[[Path], None], reason: str, bundle: Path, python: Path, tmp_path: Path
) -> None:
    spoil(bundle)
    refusal(python, tmp_path, {"REALFAKE_MODEL__PATH": str(bundle)}, code=3, reason=reason)


@pytest.mark.parametrize(
    ("setting", "code", "reason"),
    [
        (("ENGINE", "torch"), 2, "model.engine: torch needs torch, which is not installed here"),
        (("DEVICE", "cuda:0"), 2, "model.device: cuda:0 needs torch, which is not installed here"),
        (("DTYPE", "bf16"), 2, "model.dtype: bf16 needs torch, which is not installed here"),
        (("DIGEST", "0" * 64), 3, f"model.digest: the bundle's is {DIGEST}"),
    ],
)
def test_a_setting_that_cannot_hold_there_is_refused(
    setting: tuple[str, str], code: int, reason: str, python: Path, tmp_path: Path
) -> None:
    name, value = setting
    refusal(python, tmp_path, {f"REALFAKE_MODEL__{name}": value}, code=code, reason=reason)


def refusal(
    python: Path, directory: Path, settings: dict[str, str], *, code: int, reason: str
) -> None:
    """Start a server that must end with `code`, for `reason`, in one line and no traceback."""
    process = ServerProcess(directory / "refused", settings, python=python)
    try:
        assert process.wait() == code, process.log_text()
    finally:
        process.process.kill()
    [line] = [line for line in process.log_lines() if line["level"] in ("ERROR", "CRITICAL")]
    assert reason in line["message"]
    assert "Traceback" not in process.log_text()


def test_pictures_are_scored_and_become_a_reference(ask: Ask, bundle: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores.jsonl"
    done = ask("score", bundle / "samples", "--output", scores, "--model.path", bundle)
    assert done.returncode == 0, done.stderr
    lines = scores.read_text().splitlines()
    verdicts = {Path(line["path"]).stem: line["verdict"] for line in map(json.loads, lines)}
    assert (verdicts["photo-1"], verdicts["fake-1"]) == ("real", "fake")
    scores.write_text("\n".join(lines * FEWEST_PICTURES))  # as if there were as many pictures
    made = ask("model", "reference", bundle, scores)
    assert made.returncode == 0, made.stderr
    assert ask("model", "verify", bundle).returncode == 0


def test_a_bundle_is_inspected_and_verified(ask: Ask) -> None:
    described = ask("model", "inspect", BUNDLE)
    assert json.loads(described.stdout)["digest"] == DIGEST
    proven = ask("model", "verify", BUNDLE)
    assert (proven.returncode, proven.stderr) == (0, "")
    digests, graph, golden = proven.stdout.splitlines()
    assert digests.endswith("digests match")
    assert graph == (
        f"ok: {GRAPH} loads with the weights; not compared with them, for torch is not installed "
        "here"
    )
    assert "golden vectors answered within" in golden


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without_graph, f"the bundle has no {GRAPH}"),
        (of_another_training, "golden vectors: an answer differs by"),
    ],
)
def test_verify_finds_there_what_a_start_would(
    spoil: Callable[[Path], None], reason: str, ask: Ask, bundle: Path
) -> None:
    spoil(bundle)
    done = ask("model", "verify", bundle)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"realfake: {reason}")


@pytest.mark.parametrize(
    "command",
    [
        ("export", "bundle"),
        ("convert", "a.pth", "new", "--architecture", "x", "--labels", "a,b", "--fake", "a"),
    ],
)
def test_what_needs_torch_says_where_it_is(command: tuple[str, ...], ask: Ask) -> None:
    done = ask("model", *command)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line == (
        f"realfake: `model {command[0]}` needs torch, which is not installed here; {ELSEWHERE}"
    )


def test_keys_and_audit_records_are_made_and_checked(
    ask: Ask, served: ServerProcess, tmp_path: Path
) -> None:
    made = ask("keys", "new", "--id", "web", "--dir", tmp_path)
    assert (made.returncode, (tmp_path / "web").is_file()) == (0, True)
    assert ask("check", "--auth.keys_dir", tmp_path).returncode == 0
    checked = ask("audit", "verify", served.log_path)
    assert checked.returncode == 0, checked.stderr
    assert "ok: " in checked.stdout
