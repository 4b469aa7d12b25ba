"""Figures of the GPU; where there is none, its library's answers stand in for it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from predictor.telemetry.gpu import measure_gpu
from predictor.telemetry.recording import Metrics

UUID = "0b5ee9b4-3c5a-4a57-9f1e-1f6e3a6f3c11"


def value(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"inference_gpu_{name}", {"device": "cuda:0"})


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """NVML with one GPU, whose answers the test can change."""
    answers: dict[str, Any] = {
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=87),
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=2**30, total=80 * 2**30),
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetPowerUsage": 312_500,
    }

    def handle(uuid: str) -> str:
        if uuid != f"GPU-{UUID}":
            raise pynvml.NVMLError_NotFound()
        return "handle"

    def ask(name: str) -> Any:
        def answer(given: str, *_: object) -> Any:
            assert given == "handle"
            if isinstance(answers[name], Exception):
                raise answers[name]
            return answers[name]

        return answer

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", handle)
    for name in answers:
        monkeypatch.setattr(pynvml, name, ask(name))
    return answers


def test_figures_are_in_base_units_and_read_at_each_scrape(library: dict[str, Any]) -> None:
    metrics = Metrics()
    measure_gpu(metrics, UUID, "cuda:0")
    assert value(metrics, "utilization_ratio") == 0.87
    assert value(metrics, "memory_used_bytes") == 2**30
    assert value(metrics, "memory_total_bytes") == 80 * 2**30
    assert value(metrics, "temperature_celsius") == 61
    assert value(metrics, "power_watts") == 312.5
    library["nvmlDeviceGetTemperature"] = 70
    assert value(metrics, "temperature_celsius") == 70


def test_what_a_gpu_does_not_tell_has_no_series(library: dict[str, Any]) -> None:
    """And does not spoil the scrape for all the others."""
    library["nvmlDeviceGetUtilizationRates"] = pynvml.NVMLError_NotSupported()
    metrics = Metrics()
    measure_gpu(metrics, UUID, "cuda:0")
    assert value(metrics, "utilization_ratio") is None
    assert value(metrics, "temperature_celsius") == 61


@pytest.mark.usefixtures("library")
def test_a_gpu_that_is_not_found_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "predictor.gpu"):
        measure_gpu(Metrics(), "another", "cuda:0")
    assert "no GPU figures" in caplog.text


def test_without_nvidias_library_nothing_is_read(caplog: pytest.LogCaptureFixture) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    metrics = Metrics()
    with caplog.at_level(logging.WARNING, "predictor.gpu"):
        measure_gpu(metrics, UUID, "cuda:0")
    assert "no GPU figures" in caplog.text
    assert value(metrics, "memory_used_bytes") is None


@pytest.mark.gpu
def test_a_real_gpu_says_its_figures() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    metrics = Metrics()
    measure_gpu(metrics, str(torch.cuda.get_device_properties(0).uuid), "cuda:0")
    assert (value(metrics, "memory_total_bytes") or 0) > 2**30
    assert value(metrics, "temperature_celsius") is not None
