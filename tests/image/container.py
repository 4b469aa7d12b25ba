"""Run the image with podman or docker, confined as Pod Security's `restricted` profile asks."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
from pathlib import Path
from typing import Any

import httpx

from hack.image.engine import CONFINED, engine
from tests.server.process import API_KEY, START_LIMIT_S, eventually


def call(*args: str, check: bool = True) -> str:
    """Run the engine and return what it printed on both streams."""
    program = engine()
    assert program is not None
    done = subprocess.run(
        [program, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 or not check, done.stdout
    return done.stdout.strip()


def inspect(name: str) -> dict[str, Any]:
    described: list[dict[str, Any]] = json.loads(call("inspect", name))
    return described[0]


class Container:
    """One container of the image, under a uid that no file in it knows.

    RUN_ARGS in the environment adds what an engine needs on one machine.
    """

    def __init__(self, image: str, keys: Path, *args: str) -> None:
        # As OpenShift's namespaces hand them out: neither uid nor group is known in the image.
        self.uid = 100_000 + secrets.randbelow(900_000)
        self.id = call(
            "run",
            "--detach",
            *shlex.split(os.environ.get("RUN_ARGS", "")),
            *CONFINED,
            *("--user", f"{self.uid}:{self.uid}"),
            *("--publish", "127.0.0.1::8080", "--publish", "127.0.0.1::8081"),
            *("--volume", f"{keys}:/keys:ro,z"),
            *("--env", "REALFAKE_AUTH__KEYS_DIR=/keys"),
            image,
            *args,
        ).splitlines()[-1]

    @property
    def url(self) -> str:
        return f"http://{call('port', self.id, '8080/tcp').splitlines()[0]}"

    @property
    def grpc(self) -> str:
        return call("port", self.id, "8081/tcp").splitlines()[0]

    def logs(self) -> str:
        return call("logs", self.id)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = inspect(self.id)["State"]
        return state

    def python(self, code: str) -> str:
        return call("exec", self.id, "python", "-c", code)

    def wait_ready(self) -> Container:
        def ready() -> bool | None:
            assert self.state()["Running"], self.logs()
            try:
                return httpx.get(f"{self.url}/v2/health/ready").status_code == 200 or None
            except httpx.TransportError:
                return None

        eventually(ready, START_LIMIT_S, f"the container to be ready: {self.logs()}")
        return self

    def wait_exit(self) -> int:
        """The exit code, once it has ended by itself."""
        eventually(lambda: not self.state()["Running"] or None, START_LIMIT_S, "the end")
        code: int = self.state()["ExitCode"]
        return code

    def remove(self) -> None:
        call("rm", "--force", self.id, check=False)


def write_key(directory: Path) -> None:
    """A key that any uid may read, as the kubelet mounts a Secret."""
    (directory / "tests").write_text(API_KEY)
    (directory / "tests").chmod(0o444)
    directory.chmod(0o755)
