"""Settings that hold several values by name, read the way the product reads its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import BaseSettings

from predictor.settings import Settings
from predictor.settings.pairs import Pairs
from predictor.settings.reference import knobs_of
from predictor.settings.sources import Report, read_sources


class Hall(BaseModel):
    doors: Pairs[Annotated[str, Field(pattern="^[a-z]+$", examples=["open"])]] = Field(
        {}, description="Doors."
    )
    seats: Pairs[Annotated[int, Field(ge=1, le=9)]] = Field({}, description="Rows.")
    weights: Pairs[Annotated[float, Field(ge=0, le=2)]] = Field({"a": 1.5}, description="Weights.")


class Theatre(BaseSettings):
    model_config = Settings.model_config

    hall: Hall = Hall()


def theatre(argv: list[str], config: str, directory: Path) -> Hall:
    config_file = directory / "settings.yaml"
    config_file.write_text(config)
    environ = {"REALFAKE_CONFIG_FILE": str(config_file)}
    report = Report(knobs_of(Theatre.model_json_schema()))
    sources = read_sources(Theatre, report, argv, environ, None)
    assert report.problems == []
    return Theatre(_build_sources=(sources, {})).hall


@pytest.mark.parametrize(
    ("argv", "config"),
    [
        (["--hall.doors=east=open, west=shut", "--hall.weights=b=2, c=0.5"], ""),
        ([], "hall: {doors: {east: open, west: shut}, weights: {b: 2, c: 0.5}}"),
        ([], "hall: {doors: 'east=open,west=shut', weights: 'b=2,c=0.5'}"),
        (
            ["--hall.doors=east=open,west=shut", "--hall.weights=b=2,c=0.5"],
            "hall: {doors: {up: shut}, weights: {z: 1}}",
        ),
    ],
)
def test_they_are_text_with_commas_or_yaml(argv: list[str], config: str, tmp_path: Path) -> None:
    expected = Hall(doors={"east": "open", "west": "shut"}, weights={"b": 2.0, "c": 0.5})
    assert theatre(argv, config, tmp_path) == expected


def test_nothing_can_be_said_in_yaml(tmp_path: Path) -> None:
    assert theatre([], "hall: {weights: {}}", tmp_path) == Hall(weights={})


@pytest.mark.parametrize(
    ("argv", "config"),
    [
        (["--hall.doors=east=OPEN"], ""),
        (["--hall.seats=a=3,b=true"], ""),
        (["--hall.seats=a=0"], ""),
        (["--hall.weights=a"], ""),
        (["--hall.weights==1"], ""),
        (["--hall.weights=a=1,a=2"], ""),
        ([], "hall: {seats: {a: true}}"),
        ([], "hall: {doors: [east]}"),
        ([], "hall: {weights: [1]}"),
        ([], "hall: {weights: {a: [1]}}"),
    ],
)
def test_each_is_checked(argv: list[str], config: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        theatre(argv, config, tmp_path)


def test_they_are_described_with_what_each_may_be() -> None:
    described = knobs_of(Theatre.model_json_schema())
    each = "pairs name=value separated by commas, each value "
    assert {knob.name: (knob.accepts, knob.default) for knob in described.values()} == {
        "hall.doors": (f"{each}text such as open (pattern ^[a-z]+$)", "empty"),
        "hall.seats": (f"{each}an integer from 1 to 9", "empty"),
        "hall.weights": (f"{each}a number from 0 to 2", "a=1.5"),
    }
