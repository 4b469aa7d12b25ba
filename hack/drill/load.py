"""A caller who sends several times what can be answered, until told to stop."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from typing import Final

from PIL import Image

from hack.load.http_caller import HttpCaller, post
from hack.load.loops import ClosedLoop, Loop, OpenLoop
from hack.load.samples import Window
from hack.load.server import BUNDLE

_PATH: Final = "/v2/models/realfake/infer"
_ROUND_S: Final = 1.0
_CALLERS: Final = 2
_DEADLINE_MS: Final = 500
# Opening it takes long enough that one caller on the same cores can ask for several times more.
_SIZE: Final = (2000, 1500)


class Load:
    """Sends one large picture over and over, in a thread of its own.

    Args:
        port: where the service is now; asked once a second.
    """

    def __init__(self, port: Callable[[], int], api_key: str) -> None:
        self._port = port
        headers = {"X-API-Key": api_key, "Content-Type": "image/png"}
        self._picture = _picture()
        self._patient = post(_PATH, self._picture, headers)
        deadline = {"X-Request-Timeout-Ms": str(_DEADLINE_MS)}
        self._request = post(_PATH, self._picture, headers | deadline)
        self._done = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send()), daemon=True)
        self._per_second = 0.0

    def capacity(self, seconds: float = 2.0) -> float:
        """Pictures that are answered in a second when nobody is in a hurry."""

        async def measure() -> Window:
            caller = self._caller(self._patient)
            return await _window(ClosedLoop(caller, _CALLERS), caller, seconds)

        return asyncio.run(measure()).throughput

    def start(self, per_second: float) -> None:
        self._per_second = per_second
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    async def _send(self) -> None:
        while not self._done.is_set():
            caller = self._caller(self._request)
            await _window(OpenLoop(caller, self._per_second), caller, _ROUND_S)

    def _caller(self, request: bytes) -> HttpCaller:
        return HttpCaller(f"http://127.0.0.1:{self._port()}", request)


async def _window(loop: Loop, caller: HttpCaller, seconds: float) -> Window:
    loop.start()
    window = await loop.window(seconds)
    await loop.stop()
    await caller.close()
    return window


def _picture() -> bytes:
    photo = sorted((BUNDLE / "samples").glob("photo*.jpg"))[0]
    file = io.BytesIO()
    with Image.open(photo) as image:
        image.resize(_SIZE).save(file, "PNG", compress_level=1)
    return file.getvalue()
