"""ONNX Runtime on this CPU, against the torch engine on the same weights."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from predictor.bundle.files import GRAPH
from predictor.bundle.graph import Session
from predictor.bundle.loader import load_module
from predictor.bundle.manifest import Manifest
from predictor.errors import BundleError
from predictor.inference.cpus import usable_cpus
from predictor.inference.onnx_engine import OnnxEngine
from predictor.inference.torch_engine import TorchEngine

DEBUG = Path(__file__).parents[2] / "checkpoints" / "debug"
ROOT = Path(__file__).parents[2]
SIZE = (64, 64)


def session(manifest: Manifest) -> Session:
    size = manifest.preprocessing.input_size
    return Session(manifest.path / GRAPH, input_size=size, num_classes=manifest.num_classes)


@pytest.fixture(scope="module")
def engine(manifest: Manifest) -> OnnxEngine:
    return OnnxEngine(session(manifest), manifest.preprocessing.input_size)


@pytest.fixture(scope="module")
def torch_engine(manifest: Manifest) -> TorchEngine:
    return TorchEngine(load_module(manifest), manifest.preprocessing, device="cpu")


def pictures(manifest: Manifest, count: int, seed: int = 0) -> NDArray[np.uint8]:
    shape = (count, *manifest.preprocessing.input_size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 2, 5, 32])
def test_it_answers_as_torch_does(
    count: int, manifest: Manifest, engine: OnnxEngine, torch_engine: TorchEngine
) -> None:
    pixels = pictures(manifest, count)
    logits = engine.forward(pixels)
    assert logits.dtype == np.float32
    assert logits.shape == (count, manifest.num_classes)
    np.testing.assert_allclose(logits, torch_engine.forward(pixels), atol=1e-4)


def test_a_normalised_tensor_is_not_normalised_again(
    manifest: Manifest, engine: OnnxEngine, torch_engine: TorchEngine
) -> None:
    height, width = manifest.preprocessing.input_size
    tensor = np.random.default_rng(0).normal(size=(3, 3, height, width)).astype(np.float32)
    np.testing.assert_allclose(engine.forward(tensor), torch_engine.forward(tensor), atol=1e-4)


def test_pictures_that_are_views_are_read_right(manifest: Manifest, engine: OnnxEngine) -> None:
    """A caller's tensor may be a slice of its request, or upside down."""
    pixels = pictures(manifest, 4)
    for view in (pixels[:, ::-1], pixels[::2], pixels[..., ::-1]):
        np.testing.assert_array_equal(engine.forward(view), engine.forward(view.copy()))


def test_lanes_at_once_do_not_mix_their_answers(manifest: Manifest, engine: OnnxEngine) -> None:
    batches = [pictures(manifest, 1 + seed % 3, seed) for seed in range(60)]
    expected = [engine.forward(batch) for batch in batches]
    with ThreadPoolExecutor(6) as lanes:
        found = list(lanes.map(engine.forward, batches))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_forward_keeps_to_the_thread_of_its_caller(
    manifest: Manifest, engine: OnnxEngine
) -> None:
    """Threads of its own would be as many again as there are lanes, and spin for work."""
    engine.forward(pictures(manifest, 8))
    before = set(Path("/proc/self/task").iterdir())
    another = OnnxEngine(session(manifest), manifest.preprocessing.input_size)
    another.forward(pictures(manifest, 8))
    # One that an earlier test left may end meanwhile.
    assert set(Path("/proc/self/task").iterdir()) - before == set()


def test_it_has_a_lane_for_each_core(manifest: Manifest) -> None:
    opened = session(manifest)
    assert OnnxEngine(opened, SIZE).lanes == usable_cpus()
    assert OnnxEngine(opened, SIZE, lanes=7).lanes == 7


def test_a_batch_without_room_is_out_of_memory_and_the_next_is_answered() -> None:
    """In a process that may not have more memory than it has, as in a full container."""
    script = f"""
import resource
import numpy as np
from pathlib import Path
from predictor.bundle.manifest import read_manifest
from predictor.inference.engine import EngineOutOfMemory
from tests.unit.test_onnx_engine import DEBUG, OnnxEngine, pictures, session

manifest = read_manifest(DEBUG)
engine = OnnxEngine(session(manifest), manifest.preprocessing.input_size, lanes=1)
engine.forward(pictures(manifest, 1))
large = pictures(manifest, 512)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {32 * 1024 * 1024},) * 2)
try:
    engine.forward(large)
except EngineOutOfMemory:
    print(engine.forward(pictures(manifest, 1)).shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, "(1, 2)\n"), done.stderr


@pytest.mark.parametrize(
    ("size", "classes"), [((32, 64), 2), ((64, 64), 3)], ids=["another size", "another count"]
)
def test_a_graph_of_another_network_is_refused(
    size: tuple[int, int], classes: int, manifest: Manifest
) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx: is not for pictures of"):
        Session(manifest.path / GRAPH, input_size=size, num_classes=classes)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x07" * 1000])
def test_what_is_no_graph_is_refused_without_its_text(
    content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / GRAPH).write_bytes(content)
    with pytest.raises(BundleError, match=r"ONNX Runtime [\d.]+ cannot load it"):
        Session(tmp_path / GRAPH, input_size=SIZE, num_classes=2)
    assert capfd.readouterr() == ("", "")
