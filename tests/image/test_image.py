"""What a cluster relies on when it runs the image.

IMAGE names the image with the debug bundle, IMAGE_WITHOUT_WEIGHTS the other.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from tests.image import container
from tests.image.container import Container
from tests.server.process import API_KEY, ROOT, eventually

DEBUG = os.environ.get("IMAGE", "")
RUNTIME = os.environ.get("IMAGE_WITHOUT_WEIGHTS", "")

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(not DEBUG or not RUNTIME, reason="no image named; use make image-test"),
]

Run = Callable[..., Container]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    container.write_key(directory)
    return directory


@pytest.fixture(scope="module")
def served(keys: Path) -> Iterator[Container]:
    one = Container(DEBUG, keys)
    try:
        yield one.wait_ready()
    finally:
        one.remove()


@pytest.fixture
def run(keys: Path) -> Iterator[Run]:
    started: list[Container] = []

    def start(image: str, *args: str) -> Container:
        started.append(Container(image, keys, *args))
        return started[-1]

    yield start
    for one in started:
        one.remove()


@pytest.mark.parametrize(("sample", "verdict"), [("photo-1", "real"), ("fake-1", "fake")])
def test_a_confined_container_answers_a_curl(sample: str, verdict: str, served: Container) -> None:
    answer = subprocess.run(
        [
            *("curl", "--fail-with-body", "--silent", "--show-error"),
            f"{served.url}/v2/models/realfake/infer",
            *("--header", f"X-API-Key: {API_KEY}"),
            *("--header", "Content-Type: image/jpeg"),
            *("--data-binary", f"@{ROOT}/checkpoints/debug/samples/{sample}.jpg"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    outputs = {output["name"]: output["data"] for output in json.loads(answer.stdout)["outputs"]}
    assert outputs["verdict"] == [verdict]


@pytest.mark.parametrize(("sample", "verdict"), [("photo-1", "real"), ("fake-1", "fake")])
def test_a_confined_container_answers_over_grpc(
    sample: str, verdict: str, served: Container
) -> None:
    picture = (ROOT / "checkpoints" / "debug" / "samples" / f"{sample}.jpg").read_bytes()
    request = pb.ModelInferRequest(model_name="realfake")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
        picture
    )
    request.outputs.add(name="verdict")
    with grpc.insecure_channel(served.grpc) as channel:
        answer = pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
            request, metadata=[("x-api-key", API_KEY)], timeout=30
        )
    [output] = answer.outputs
    assert list(output.contents.bytes_contents) == [verdict.encode()]


def test_it_runs_as_the_uid_it_was_given_without_a_capability(served: Container) -> None:
    status = served.python("print(open('/proc/1/status').read())")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == [str(served.uid)] * 4
    assert fields["CapEff"].strip("0") == ""
    assert fields["NoNewPrivs"] == "1"


def test_every_cache_goes_where_a_pod_can_write(served: Container) -> None:
    """A library that falls back to its own folder fails on a read-only root."""
    written = served.python(
        "import pathlib, tempfile; from importlib.util import find_spec\n"
        "print(tempfile.gettempdir(), pathlib.Path.home())\n"
        "if find_spec('torch'):\n"  # the cuda variant alone has these
        "  import torch, huggingface_hub.constants as hub\n"
        "  from torch._inductor.runtime.cache_dir_utils import cache_dir\n"
        "  print(torch.hub.get_dir(), hub.HF_HOME, cache_dir())\n"
    )
    assert all(Path(path).is_relative_to("/tmp") for path in written.split()), written


def test_the_image_has_what_its_lock_names(served: Container) -> None:
    """And so torch in one variant only."""
    found = served.python(
        "from importlib.metadata import distributions\n"
        "for one in distributions(): print(one.name.lower().replace('_', '-'), one.version)\n"
    )
    lock = {"cpu": "cpu.txt", "cuda": "runtime.txt"}[os.environ.get("VARIANT", "cuda")]
    pins = re.findall(r"^([a-z0-9.-]+)==([^ ;]+)", (ROOT / "requirements" / lock).read_text(), re.M)
    installed = dict(line.split(maxsplit=1) for line in found.splitlines())
    # Not the other way round: some pins are for another Python or another platform.
    assert {name for name, _ in installed.items() - set(pins)} == {"realfake"}
    assert "onnxruntime" in installed


def test_the_bundle_and_the_code_belong_to_root(served: Container) -> None:
    """A process that is taken over must not be able to change what the next one runs."""
    loose = served.python(
        "import os\n"
        "for top in ('/opt/realfake', '/mnt/models'):\n"
        "  for where, dirs, files in os.walk(top):\n"
        "    for name in dirs + files:\n"
        "      path = os.path.join(where, name); entry = os.lstat(path)\n"
        "      loose = entry.st_uid or entry.st_mode & 0o002\n"
        "      if loose and not os.path.islink(path): print(path)\n"
    )
    assert loose == ""


def test_sigterm_drains_and_ends_it_cleanly(run: Run) -> None:
    one = run(DEBUG, "--server.drain-delay-s", "0").wait_ready()
    container.call("kill", "--signal", "TERM", one.id)
    assert one.wait_exit() == 0, one.logs()
    assert json.loads(one.logs().splitlines()[-1])["message"] == "stopped"


def test_sigterm_ends_it_while_it_still_imports(run: Run) -> None:
    """The kernel drops what process 1 does not handle: the pod would hang until SIGKILL."""
    one = run(DEBUG)

    def catches() -> bool | None:
        mask = one.python("print(open('/proc/1/status').read().split('SigCgt:')[1].split()[0])")
        return bool(int(mask, 16) >> 14 & 1) or None

    eventually(catches, 30, "a handler for SIGTERM")
    container.call("kill", "--signal", "TERM", one.id)
    assert one.wait_exit() == 128 + 15, one.logs()
    assert "listening" not in one.logs()


def test_without_weights_it_says_what_to_mount(run: Run) -> None:
    one = run(RUNTIME)
    assert one.wait_exit() == 3
    assert "/mnt/models" in one.logs()


@pytest.mark.parametrize("image", [DEBUG, RUNTIME], ids=["debug", "runtime"])
def test_the_description_of_the_image(image: str) -> None:
    config = container.inspect(image)["Config"]
    user = config["User"].split(":")[0]
    assert user.isdigit(), "runAsNonRoot needs a number"
    assert int(user) > 0
    assert config["Entrypoint"] == ["python", "-m", "predictor", "serve"]
    # The cluster's probes decide; a check of the image's own would only cost.
    assert not config.get("Healthcheck")
    assert not config.get("Volumes")
    labels = config["Labels"]
    names = ("title", "version", "revision", "created", "licenses", "base.name", "base.digest")
    described = {name: labels.get(f"org.opencontainers.image.{name}") for name in names}
    missing = [name for name, value in described.items() if value in (None, "unknown")]
    assert missing == []


def test_the_build_leaves_no_credential_behind(served: Container) -> None:
    """Index addresses reach the build as secrets; a copy in a layer would be published."""
    left = served.python(
        "import os\n"
        "names = ('pip.conf', 'uv.toml', '.netrc', 'pip_conf', 'uv_toml', 'ca_bundle')\n"
        "for where, dirs, files in os.walk('/'):\n"
        "  dirs[:] = [d for d in dirs if where != '/' or d not in ('proc', 'sys', 'dev')]\n"
        "  for name in files:\n"
        "    if name in names: print(os.path.join(where, name))\n"
    )
    assert left == ""
    history = container.call("history", "--no-trunc", "--format", "{{.CreatedBy}}", DEBUG)
    assert "://" not in history.replace("https://www.python.org", "")
