"""The stub server, which first writes down every route and method that it registers.

Run as a program by `ServerProcess(command=("-m", "tests.server.described"))`; DESCRIBED_TO names
the file. What is written is what this very process serves, not what somebody listed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from predictor import cli
from predictor.serving import rest, server
from tests.server.stub import load_classifier

described: dict[str, Any] = {"rest": [], "grpc": {}}


def write() -> None:
    Path(os.environ["DESCRIBED_TO"]).write_text(json.dumps(described))


def build_routes(*arguments: Any) -> Any:
    routes = rest.build_routes(*arguments)
    described["rest"] = [
        {"method": route.method, "path": route.path, "public": route.public}
        for route in routes.table
    ]
    write()
    return routes


class RecordingServer:
    """A `grpc.aio.Server` that also records which handlers it is given."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._server: Any = grpc_aio_server(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        for handler in handlers:
            for name, method in handler._method_handlers.items():
                described["grpc"][name] = {"streams": method.unary_unary is None}
        write()
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        for name, method in handlers.items():
            described["grpc"][f"/{service}/{name}"] = {"streams": method.unary_unary is None}
        write()
        self._server.add_registered_method_handlers(service, handlers)


grpc_aio_server = grpc.aio.server

if __name__ == "__main__":
    setattr(server, "load_classifier", load_classifier)  # noqa: B010  # not exported for others
    setattr(server, "build_routes", build_routes)  # noqa: B010
    setattr(grpc.aio, "server", RecordingServer)  # noqa: B010
    sys.exit(cli.main(["serve"]))
