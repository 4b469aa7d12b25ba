"""FastAPI with a pool of four threads, as the old service was planned: `POST /infer`."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import uvicorn
from classifier import make
from fastapi import FastAPI, File, UploadFile

app = FastAPI()
pool = ThreadPoolExecutor(max_workers=4)
model = make()


def classify(picture: bytes) -> dict[str, float]:
    return model.probabilities([model.prepare(picture)])[0]


@app.post("/infer")
async def infer(file: Annotated[UploadFile, File()]) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(pool, classify, await file.read())


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PEER_PORT"]), access_log=False)
