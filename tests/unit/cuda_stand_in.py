"""Where no GPU is, CUDA's streams and graphs on the CPU: what is recorded is what torch computed.

A graph holds operators, and the memory they read and wrote; it knows nothing of Python. So does
this one, of the operators that torch dispatches: it runs them again on the same memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Event:
    def __init__(self, *, blocking: bool = False) -> None: ...

    def synchronize(self) -> None: ...


class Stream:
    def __init__(self, device: object) -> None: ...

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def wait_event(self, event: Event) -> None: ...


class Graph(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(
        self, function: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten.item.default:  # CUDA's own words
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        self._done.append((function, args, kwargs, result))
        return result

    def replay(self) -> None:
        for function, args, kwargs, result in self._done:
            again = function(*args, **kwargs)
            for written, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(written, torch.Tensor):
                    written.copy_(new)


@contextlib.contextmanager
def capturing(graph: Graph, **_: object) -> Iterator[None]:
    with graph:
        yield


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put it in CUDA's place, for a network on the CPU."""
    empty = torch.empty

    def without_pinning(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        return empty(*args, **kwargs)

    def nothing(*args: object) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()

    monkeypatch.setattr(torch, "empty", without_pinning)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    replaced = {
        **{"Stream": Stream, "Event": Event, "CUDAGraph": Graph, "graph": capturing},
        **{"stream": nothing, "device": nothing, "graph_pool_handle": nothing},
        "synchronize": nothing,
    }
    for name, stand_in in replaced.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
