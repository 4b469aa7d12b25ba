"""The command line: what each command prints, and the exit code it ends with."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from predictor.cli import main
from predictor.security.api_keys import digest_of, generate
from predictor.security.key_files import read_directory
from predictor.settings import Settings, effective, knobs


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty directory, so that no `.env` of the developer's takes part."""
    monkeypatch.chdir(tmp_path)


Output = pytest.CaptureFixture[str]


def give(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_check_prints_what_is_in_effect_and_why(capsys: Output) -> None:
    assert main(["check", "--auth.mode=none", "--server.http-port", "9000"]) == 0
    text = capsys.readouterr().out
    assert "http_port: 9000  # command line --server.http-port" in text
    assert "grpc_port: 8081  # default" in text
    assert yaml.safe_load(text)["auth"] == {"mode": "none", "keys_dir": None}


def test_check_prints_json_for_programs(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALFAKE_AUTH__KEYS_DIR", "/keys")
    assert main(["check", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["settings"].keys() == effective(Settings()).keys()
    assert printed["settings"]["auth"]["keys_dir"] == "/keys"
    assert printed["sources"] == {"auth.keys_dir": "environment variable REALFAKE_AUTH__KEYS_DIR"}


def test_who_has_read_enough_gets_no_traceback() -> None:
    command = [sys.executable, "-m", "predictor", "check", "--auth.mode=none"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root
    ) as check:
        assert check.stdout is not None
        assert check.stderr is not None
        check.stdout.close()  # as `| head` does, once it has its lines
        assert check.stderr.read() == b""
    assert check.returncode == 128 + signal.SIGPIPE


def test_check_refuses_with_exit_code_2(capsys: Output) -> None:
    assert main(["check", "--server.http-port=-1"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "server.http_port" in captured.err
    assert "auth.keys_dir" in captured.err


def test_serve_refuses_as_one_json_line(capsys: Output) -> None:
    """A pod's output is parsed line by line, the last words of a failed start included."""
    done = subprocess.run(
        [sys.executable, "-m", "predictor", "serve", "--server.http-port=-1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stderr) == (2, "")
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["level"], line["exit_code"]) == ("CRITICAL", 2)
    assert "server.http_port" in line["message"]


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["serve", "stray"],
        ["score"],
        ["score", "a.jpg"],
        ["keys"],
        ["model"],
        ["check", "--jso"],
        ["keys", "new", "--server.http-port", "1"],
    ],
)
def test_wrong_usage_is_exit_code_2(argv: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "check", "score"])
def test_help_lists_every_setting(command: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for knob in knobs().values():
        assert f"{knob.flag} " in text


def test_a_new_key_is_alone_on_stdout(capsys: Output) -> None:
    assert main(["keys", "new"]) == 0
    captured = capsys.readouterr()
    (key,) = captured.out.splitlines()
    assert key.startswith("rf_")
    assert digest_of(key) in captured.err
    assert key not in captured.err


def test_a_new_key_is_written_where_the_server_reads_it(tmp_path: Path, capsys: Output) -> None:
    keys = tmp_path / "keys"
    assert main(["keys", "new", "--id", "web", "--dir", str(keys)]) == 0
    key = capsys.readouterr().out.strip()
    assert read_directory(keys).verify(key.encode()).id == "web"
    assert main(["keys", "new", "--id", "web", "--dir", str(keys)]) == 2
    assert main(["keys", "new", "--dir", str(keys)]) == 2
    assert capsys.readouterr().out == ""


def test_a_hash_stands_in_for_its_key(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = generate()
    give(monkeypatch, f"{key}\n")
    assert main(["keys", "hash"]) == 0
    (tmp_path / "web").write_text(capsys.readouterr().out)
    give(monkeypatch, f"{key}\n")
    assert main(["keys", "verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "web\n"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("hunter2", "shorter than 24"),
        (f"sha256:{digest_of(generate())}", "like a digest"),
        (generate()[:-1], "checksum"),
    ],
    ids=["short", "digest", "cut"],
)
def test_a_poor_key_is_not_hashed(
    key: str, reason: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, f"{key}\n")
    assert main(["keys", "hash"]) == 2
    captured = capsys.readouterr()
    assert reason in captured.err
    assert key not in captured.out + captured.err


@pytest.mark.parametrize(("cut", "reason"), [(True, "checksum"), (False, "none of these")])
def test_an_unknown_key_is_exit_code_1(
    cut: bool, reason: str, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = generate()
    (tmp_path / "web").write_text(key)
    presented = key[:-1] if cut else generate()
    give(monkeypatch, presented)
    assert main(["keys", "verify", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert reason in captured.err
    assert presented not in captured.out + captured.err


def test_a_key_with_a_generation_and_an_end_is_recognised_until_then(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = "2099-01-31T00:00:00Z"
    keys = tmp_path / "keys"
    assert main(["keys", "new", "--id", "web.2", "--dir", str(keys), "--expires", end]) == 0
    captured = capsys.readouterr()
    key = captured.out.strip()
    assert f"sha256:{digest_of(key)}\nexpires: {end}\n" in captured.err
    give(monkeypatch, key)
    assert main(["keys", "verify", str(keys)]) == 0
    assert capsys.readouterr().out == f"web generation=2 expires={end}\n"
    (keys / "web.2").write_text(f"{key}\nexpires: 2020-01-31T00:00:00Z\n")
    give(monkeypatch, key)
    assert main(["keys", "verify", str(keys)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "expired: web generation=2 expires=2020-01-31T00:00:00Z" in captured.err
    assert key not in captured.err


@pytest.mark.parametrize("end", ["2020-01-31T00:00:00Z", "2099-01-31", "tomorrow"])
@pytest.mark.parametrize("action", ["new", "hash"])
def test_an_end_in_doubt_makes_no_key(
    end: str, action: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, generate())
    assert main(["keys", action, "--expires", end]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--expires" in captured.err
