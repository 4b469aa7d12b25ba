"""Settings: precedence, refusals that name place and fix, and nothing secret in any message."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from predictor.errors import SettingsError
from predictor.settings import Settings, effective, knobs, load_settings, resolve
from predictor.settings.reference import as_flags, as_markdown, as_yaml
from predictor.settings.sources import split_flags
from tests.documentation import ROOT

OPEN = {"REALFAKE_AUTH__MODE": "none"}
SECRET = "rf_S3cretValueThatMustNotBePrinted"


def refusal(
    *argv: str, environ: dict[str, str] | None = None, dotenv: Path | None = None
) -> list[str]:
    """The lines of the refusal, without its heading."""
    with pytest.raises(SettingsError) as refused:
        resolve(argv, OPEN if environ is None else environ, dotenv=dotenv)
    assert refused.value.exit_code == 2
    return [line.strip() for line in refused.value.message.splitlines()[1:]]


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def test_defaults_are_those_of_the_architecture() -> None:
    settings = load_settings([], OPEN)
    assert settings.model.path == Path("/mnt/models")
    assert settings.model.name == "realfake"
    assert (settings.server.http_port, settings.server.grpc_port) == (8080, 8081)
    assert not settings.model.allow_pth
    assert not settings.server.docs_enabled


def test_settings_made_directly_read_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("REALFAKE_SERVER__HTTP_PORT=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REALFAKE_SERVER__GRPC_PORT", "2")
    server = Settings().server
    assert (server.http_port, server.grpc_port) == (8080, 8081)


def test_a_text_is_json_in_no_source() -> None:
    (line,) = refusal(environ={**OPEN, "REALFAKE_SERVER": '{"http_port": 1}'})
    assert line.startswith("REALFAKE_SERVER ")
    assert load_settings(["--model.path", "null"], OPEN).model.path == Path("null")


def test_keys_are_asked_for_unless_said_otherwise() -> None:
    assert Settings().auth.mode == "api_key"
    (line,) = refusal(environ={})
    assert "auth.keys_dir" in line
    assert "auth.mode" in line


def test_scoring_needs_no_keys_and_no_ports() -> None:
    same_ports = ["--server.http-port", "9", "--server.grpc-port", "9"]
    assert resolve(same_ports, {}, dotenv=None, serving=False).settings.auth.keys_dir is None


def test_first_source_wins(tmp_path: Path, config_file: Path) -> None:
    config_file.write_text(
        "server: {http_port: 4, grpc_port: 14, keep_alive_s: 24}\nmodel: {name: yaml}\n"
    )
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        f"REALFAKE_SERVER__HTTP_PORT=3\nREALFAKE_SERVER__GRPC_PORT=13\nUNRELATED=1\n"
        f"REALFAKE_SERVER__KEEP_ALIVE_S=23\nREALFAKE_CONFIG_FILE={config_file}\n"
    )
    environ = {**OPEN, "REALFAKE_SERVER__HTTP_PORT": "2", "REALFAKE_SERVER__GRPC_PORT": "12"}
    resolved = resolve(["--server.http-port", "1"], environ, dotenv=dotenv)
    server = resolved.settings.server
    assert (server.http_port, server.grpc_port, server.keep_alive_s) == (1, 12, 23)
    assert resolved.settings.model.name == "yaml"
    assert resolved.sources == {
        "server.http_port": "command line --server.http-port",
        "server.grpc_port": "environment variable REALFAKE_SERVER__GRPC_PORT",
        "auth.mode": "environment variable REALFAKE_AUTH__MODE",
        "server.keep_alive_s": ".env file, REALFAKE_SERVER__KEEP_ALIVE_S",
        "model.name": f"YAML file {config_file}",
    }


@pytest.mark.parametrize(
    "argv",
    [
        ["--server.http-port", "9000"],
        ["--server.http-port=9000"],
        ["--server.http_port", "9000"],
        ["--server.http_port=9000"],
        ["--server.http-port=1", "--server.http-port=9000"],
    ],
)
def test_ways_to_write_a_flag(argv: list[str]) -> None:
    assert load_settings(argv, OPEN).server.http_port == 9000


def test_flags_are_told_from_a_commands_own_arguments() -> None:
    argv = [
        "score",
        "a.jpg",
        "--model.path",
        "b",
        "--output=c.d",
        "--auth.mode=none",
        "--no-resume",
    ]
    assert split_flags(argv) == (
        ["--model.path", "b", "--auth.mode=none"],
        ["score", "a.jpg", "--output=c.d", "--no-resume"],
    )
    assert split_flags(["serve", "--model.path"]) == (["--model.path"], ["serve"])


@pytest.mark.parametrize(
    ("argv", "environ", "place", "fix"),
    [
        (["--server.http-prot", "1"], OPEN, "command line", "--server.http-port"),
        (["--server.http-port"], OPEN, "command line", "needs a value"),
        (["stray"], OPEN, "command line", "--group.name VALUE"),
        (
            [],
            {**OPEN, "REALFAKE_SERVER__HTTP_PRT": "1"},
            "environment variable REALFAKE_SERVER__HTTP_PRT",
            "REALFAKE_SERVER__HTTP_PORT",
        ),
        (
            [],
            {**OPEN, "REALFAKE_SERVER_HTTP_PORT": "1"},
            "environment variable REALFAKE_SERVER_HTTP_PORT",
            "REALFAKE_SERVER__HTTP_PORT",
        ),
        (
            [],
            {**OPEN, "realfake_model__path": "/x"},
            "environment variable realfake_model__path",
            "REALFAKE_MODEL__PATH",
        ),
        ([], {**OPEN, "REALFAKE_ZZZ": "1"}, "REALFAKE_ZZZ", "docs/settings.md"),
        ([], {**OPEN, "REALFAKE_MODEL__NAME": ""}, "REALFAKE_MODEL__NAME", "remove it"),
        (["--server.http-port", "65536"], OPEN, "--server.http-port", "from 0 to 65535"),
        (["--server.http-port", "http"], OPEN, "--server.http-port", "an integer"),
        (["--server.drain-delay-s", "nan"], OPEN, "--server.drain-delay-s", "from 0 to 300"),
        (["--limits.max-deadline-s", "0"], OPEN, "--limits.max-deadline-s", "above 0"),
        (["--model.dtype", "int8"], OPEN, "--model.dtype", "auto, fp32, fp16, bf16"),
        (["--model.name", "a/b"], OPEN, "--model.name", "such as realfake"),
        (["--model.allow-pth", "maybe"], OPEN, "--model.allow-pth", "true or false"),
    ],
)
def test_a_bad_setting_is_named_with_its_place_and_the_fix(
    argv: list[str], environ: dict[str, str], place: str, fix: str
) -> None:
    (line,) = refusal(*argv, environ=environ)
    assert place in line
    assert fix in line


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("server: {http_prt: 1}", "server.http_port"),
        ("sever: {}", "server"),
        ("server: 8080", "must be a group"),
        ("server: {http_port: [1]}", "an integer"),
        ("server: {http_port: true}", "an integer"),
        ("server: {http_port: {a: 1}}", "an integer"),
        ("model: {name: &all [*all]}", "such as realfake"),
        ("- a", "groups"),
        ("a: [", "not valid YAML at line"),
        ("a: \x01", "not valid YAML"),
    ],
)
def test_a_bad_yaml_file_is_named(text: str, fix: str, config_file: Path) -> None:
    config_file.write_text(text)
    (line,) = refusal(environ={**OPEN, "REALFAKE_CONFIG_FILE": str(config_file)})
    assert str(config_file) in line
    assert fix in line


def test_a_yaml_file_that_cannot_be_read_is_named(config_file: Path) -> None:
    environ = {**OPEN, "REALFAKE_CONFIG_FILE": str(config_file)}
    (line,) = refusal(environ=environ)
    assert str(config_file) in line
    config_file.write_bytes(b"\xff\xfe")
    (line,) = refusal(environ=environ)
    assert "UTF-8" in line


def test_a_dotenv_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"REALFAKE_MODEL__NAME=\xff\n")
    (line,) = refusal(dotenv=dotenv)
    assert ".env file" in line
    assert "UTF-8" in line


def test_dotenv_values_are_taken_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_SECRET", SECRET)
    dotenv = tmp_path / ".env"
    dotenv.write_text("REALFAKE_MODEL__PATH=/a/${SOME_SECRET}\n")
    settings = resolve([], OPEN, dotenv=dotenv).settings
    assert settings.model.path == Path("/a/${SOME_SECRET}")


@pytest.mark.parametrize("text", ["", "server:\n", "auth: {keys_dir: null}"])
def test_yaml_may_leave_things_out(text: str, config_file: Path) -> None:
    config_file.write_text(text)
    environ = {**OPEN, "REALFAKE_CONFIG_FILE": str(config_file)}
    assert load_settings([], environ) == load_settings([], OPEN)


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (
            ["--server.http-port=9", "--server.grpc-port=9"],
            ("server.http_port", "server.grpc_port"),
        ),
        (["--auth.keys-dir=/keys"], ("auth.mode", "auth.keys_dir")),
        (["--limits.min-side=100", "--limits.max-side=99"], ("limits.min_side", "limits.max_side")),
        (
            ["--limits.max-image-bytes=4096", "--limits.max-request-bytes=4095"],
            ("limits.max_image_bytes", "limits.max_request_bytes"),
        ),
        (
            ["--batching.max-batch-size=33", "--batching.max-queue=32"],
            ("batching.max_batch_size", "batching.max_queue"),
        ),
        (
            ["--limits.max-pictures=257"],
            ("limits.max_pictures", "batching.max_queue"),
        ),
        (
            ["--batching.max-wait-ms=500", "--limits.max-deadline-s=0.5"],
            ("batching.max_wait_ms", "limits.max_deadline_s"),
        ),
        (
            ["--limits.max-bytes-in-flight=33554432"],
            ("limits.max_request_bytes", "limits.max_bytes_in_flight"),
        ),
        (
            ["--limits.max-connections=512"],
            ("limits.max_connections", "limits.max_in_flight"),
        ),
        (["--limits.max-pixels=100000000"], ("limits.max_pixels", "decoding.max_memory_bytes")),
        (
            ["--server.health-port=9", "--server.grpc-port=9"],
            ("server.health_port", "server.grpc_port"),
        ),
        (["--tls.cert-file=/c"], ("tls.cert_file", "tls.key_file")),
        (["--tls.key-file=/k", "--tls.client-ca-file=/a"], ("tls.cert_file", "tls.key_file")),
        (["--tls.client-ca-file=/a"], ("tls.client_ca_file", "tls.cert_file")),
        (
            ["--rate-limit.redis-url-file=/redis"],
            ("rate_limit.redis_url_file", "rate_limit.rate"),
        ),
        (["--rate-limit.rates=web=1/second"], ("rate_limit.rates", "auth.mode")),
        (["--audit.destination=file"], ("audit.destination", "audit.file")),
        (
            ["--audit.destination=stdout", "--audit.file=/audit"],
            ("audit.destination", "audit.file"),
        ),
        (["--audit.hmac-key-file=/secret"], ("audit.destination", "audit.hmac_key_file")),
    ],
)
def test_contradictions_name_both_settings(argv: list[str], names: tuple[str, str]) -> None:
    (line,) = refusal(*argv)
    assert all(name in line for name in names)


def test_both_ports_may_be_any_free_one() -> None:
    server = load_settings(["--server.http-port=0", "--server.grpc-port=0"], OPEN).server
    assert server.http_port == server.grpc_port == 0


def test_all_problems_are_told_at_once() -> None:
    lines = refusal(
        "--server.http-port=x",
        "--model.nme=y",
        "--limits.min-side=100",
        "--limits.max-side=99",
        environ={"REALFAKE_AUTH__MOD": "none"},
    )
    named = ("server.http_port", "--model.nme", "limits.min_side", "REALFAKE_AUTH__MOD", "keys_dir")
    assert len(lines) == len(named)
    for name in named:
        assert any(name in line for line in lines), name


def test_a_contradiction_with_a_bad_value_is_not_invented() -> None:
    (line,) = refusal("--batching.max-queue=-1", "--limits.max-pictures=257")
    assert line.startswith("batching.max_queue ")


def test_what_kubernetes_injects_for_a_service_is_no_setting() -> None:
    links = {
        "REALFAKE_SERVICE_HOST": "10.0.0.1",
        "REALFAKE_SERVICE_PORT": "80",
        "REALFAKE_SERVICE_PORT_HTTP1": "80",
        "REALFAKE_PORT": "tcp://10.0.0.1:80",
        "REALFAKE_PREDICTOR_PORT": "tcp://10.0.0.1:80",
        "REALFAKE_PREDICTOR_PORT_80_TCP": "tcp://10.0.0.1:80",
        "REALFAKE_PREDICTOR_PORT_80_TCP_PROTO": "tcp",
        "REALFAKE_PREDICTOR_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert load_settings([], {**OPEN, **links}) == load_settings([], OPEN)


@pytest.mark.parametrize("knob", list(knobs().values()), ids=list(knobs()))
def test_no_message_repeats_a_value(knob: Any, config_file: Path) -> None:
    """Keys get pasted into the wrong variable; every setting must keep quiet about its value."""
    bad = f"\x00{SECRET}/"
    config_file.write_text(f"x: '{SECRET}'\n")
    environ = {**OPEN, knob.env: bad, "REALFAKE_TYPO": SECRET}
    environ["REALFAKE_CONFIG_FILE"] = str(config_file)
    with pytest.raises(SettingsError) as refused:
        resolve([SECRET, f"--typo.x={SECRET}"], environ, dotenv=None)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


def test_settings_cannot_be_changed_or_extended() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.server.http_port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Settings.model_validate({"server": {"nope": 1}})


def test_effective_yaml_is_a_config_file_that_gives_the_same_settings(config_file: Path) -> None:
    argv = ["--model.path=/some/where", "--batching.max-wait-ms=0.5", "--auth.keys-dir=/keys"]
    resolved = resolve(argv, {}, dotenv=None)
    text = as_yaml(effective(resolved.settings), resolved.sources)
    assert re.search(r"max_wait_ms: 0\.5 +# command line --batching\.max-wait-ms", text)
    assert re.search(r"http_port: 8080 +# default", text)
    config_file.write_text(text)
    again = resolve([], {"REALFAKE_CONFIG_FILE": str(config_file)}, dotenv=None)
    assert again.settings == resolved.settings
    assert yaml.safe_load(text) == effective(resolved.settings)


def test_every_setting_is_described() -> None:
    described = knobs()
    assert len(described) == sum(len(group) for group in effective(Settings()).values())
    for knob in described.values():
        assert len(knob.description) > 20, knob.name
        assert knob.description.endswith("."), knob.name
    markdown = as_markdown(described, dict.fromkeys(Settings.model_fields, ""))
    flags = as_flags(described.values())
    for name, knob in described.items():
        assert f"| `{name}` |" in markdown
        assert f"{knob.flag} " in flags


def test_the_schema_for_other_tools_is_closed_and_takes_the_effective_settings() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hack.generate_settings_docs", "--schema"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    schema = json.loads(done.stdout)
    groups = effective(Settings())
    assert schema["properties"].keys() == groups.keys()
    assert schema["additionalProperties"] is False
    for name, members in groups.items():
        group = schema["$defs"][schema["properties"][name]["$ref"].rpartition("/")[2]]
        assert group["properties"].keys() == members.keys()
        assert group["additionalProperties"] is False


@given(name=st.text(min_size=1), text=st.text())
def test_any_command_line_is_read_or_refused(name: str, text: str) -> None:
    with contextlib.suppress(SettingsError):
        resolve([f"--{name}", text], OPEN, dotenv=None)
