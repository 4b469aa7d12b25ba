"""The documentation matches the product: settings, commands, routes' codes and links."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from predictor import errors
from predictor.cli import main
from predictor.settings import knobs
from tests.documentation import PAGES, ROOT, blocks, examples

LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
MAKE = re.compile(r"\bmake ([a-z][a-z-]+)")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", read(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower().replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    prose = re.sub(r"`[^`\n]+`", "", read(page))
    for target, anchor in LINK.findall(prose):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page} links to {target}"
        if anchor:
            linked = path.resolve().relative_to(ROOT).as_posix()
            assert anchor in anchors(linked), f"{page} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_that_are_named_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    code = "\n".join([*re.findall(r"`([^`\n]+)`", read(page)), *(b.code for b in blocks(page))])
    assert set(MAKE.findall(code)) <= targets


def test_the_first_screen_of_the_readme_is_two_commands_and_a_curl() -> None:
    screen = "\n".join(read("README.md").splitlines()[:30])
    assert screen.index("make run") < screen.index("make test") < screen.index("curl -")


def test_generated_settings_reference_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hack.generate_settings_docs", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_settings_that_are_named_exist(page: str) -> None:
    groups = {name.partition(".")[0] for name in knobs()}
    dotted = re.compile(rf"(?:`|--)((?:{'|'.join(groups)})\.[a-z_-]+)(?:`| |=)")
    files = {"model.safetensors", "model.onnx"}
    named = {name.replace("-", "_") for name in dotted.findall(read(page))}
    assert named - files <= set(knobs())


def test_every_error_code_is_documented() -> None:
    table = read("docs/protocols.md")
    pending: list[type[errors.WireError]] = [errors.WireError]
    codes = set()
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if hasattr(kind, "code"):
            codes.add(kind.code)
            rows = (line for line in table.splitlines() if line.startswith("| "))
            row = next(line for line in rows if kind.code in line.split("|")[1])
            assert f"| {kind.http_status}" in row
            assert kind.grpc_status in row
    assert len(codes) > 10


def test_every_protocol_has_an_example() -> None:
    code = "\n".join(block.code for block in examples() if "protocols.md" in block.place)
    for wire in (
        '/infer"',
        "/v2/models/realfake/infer",
        "/v1/models/realfake:predict",
        "/v2/health/ready",
        "tritonclient.http",
        "tritonclient.grpc",
        "InferenceRESTClient",
        "InferenceGRPCClient",
        "HealthStub",
        "predictor score",
    ):
        assert wire in code, wire


def test_help_names_every_command_the_documentation_uses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = set()
    for page in PAGES:
        commands |= set(re.findall(r"python -m predictor ([a-z]+)", read(page)))
    with pytest.raises(SystemExit):
        main(["--help"])
    overview = capsys.readouterr().out
    for command in commands:
        assert re.search(rf"^ +{command} ", overview, re.MULTILINE), command
