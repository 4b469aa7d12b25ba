"""A real Redis to count in, to kill, to stop and to bring back."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType

import pytest
import redis

from tests.server.process import eventually

PASSWORD = "redis-canary-5c1f0e"
needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None,
    reason="redis-server is not installed (apt-get install redis-server)",
)


class RedisProcess:
    """One `redis-server` on a free port of this machine, with a password and nothing on disk."""

    def __init__(self, directory: Path, tls: tuple[Path, Path] | None = None) -> None:
        self.directory = directory
        self._tls = tls
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        scheme = "redis" if tls is None else "rediss"
        self.url = f"{scheme}://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self.url_file = directory / "redis-url"
        self.url_file.write_text(f"{self.url}\n")

    def __enter__(self) -> RedisProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        ports = ["--port", str(self.port)]
        if self._tls is not None:
            key, certificate = map(str, self._tls)
            ports = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            ports += ["--tls-key-file", key, "--tls-cert-file", certificate]
        command = [
            *("redis-server", "--bind", "127.0.0.1", *ports),
            *("--requirepass", PASSWORD, "--save", "", "--appendonly", "no"),
        ]
        with (self.directory / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
        eventually(self._answers, 30, "the Redis to answer")

    def _answers(self) -> bool | None:
        trust = {} if self._tls is None else {"ssl_ca_certs": str(self._tls[1])}
        try:
            with redis.Redis.from_url(self.url, **trust) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Keep the connections open and answer nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)
