"""Rotation: which keys are in force after each thing that can happen to their directory."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from predictor.errors import SettingsError, Unauthenticated
from predictor.security.key_store import KeyStore
from tests.mounted_secret import MountedSecret

OLD = "rf_b3JkaW5hcnkta2V5LW9mLWEtdGVzdA792d5e55"
NEW = "another-Key_of-24-Characters"
GONE = "expires: 2020-01-31T00:00:00Z"


@pytest.fixture
def secret(tmp_path: Path) -> MountedSecret:
    return MountedSecret(tmp_path / "keys", {"web": OLD})


@pytest.fixture
def store(secret: MountedSecret, caplog: pytest.LogCaptureFixture) -> KeyStore:
    caplog.set_level(logging.INFO, "predictor.security")
    return KeyStore(secret.path)


def is_known(store: KeyStore, key: str) -> bool:
    try:
        return store.verify(key.encode()).id == "web"
    except Unauthenticated:
        return False


def test_a_swap_brings_new_keys_and_ends_old_ones(
    store: KeyStore, secret: MountedSecret, caplog: pytest.LogCaptureFixture
) -> None:
    secret.publish({"web": OLD, "web.2": NEW})
    store.poll()
    assert is_known(store, OLD)
    assert is_known(store, NEW)
    secret.publish({"web.2": NEW})
    store.poll()
    assert not is_known(store, OLD)
    assert is_known(store, NEW)
    changes = [(vars(record)["added"], vars(record)["removed"]) for record in caplog.records]
    assert changes == [(["web.2"], []), ([], ["web"])]
    assert store.state.failures == 0
    assert OLD not in caplog.text


def test_a_key_changed_in_place_is_a_change(tmp_path: Path) -> None:
    """In a directory that no kubelet manages, and with the same name and size."""
    (tmp_path / "web").write_text(OLD)
    store = KeyStore(tmp_path)
    (tmp_path / "web").write_text(OLD[::-1])
    store.poll()
    assert is_known(store, OLD[::-1])
    assert not is_known(store, OLD)


BREAKS: dict[str, Callable[[MountedSecret], object]] = {
    "empty": lambda secret: secret.publish({}),
    "partly bad": lambda secret: secret.publish({"web.2": NEW, "batch": "short"}),
    "a bad date": lambda secret: secret.publish({"web.2": f"{NEW}\nexpires: soon"}),
    "not text": lambda secret: secret.publish({"web.2": b"\xff" * 40}),
    "the version gone": lambda secret: shutil.rmtree((secret.path / "..data").resolve()),
    "the mount gone": lambda secret: shutil.rmtree(secret.path),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_bad_update_keeps_the_last_good_keys_and_says_so_once(
    broken: str, store: KeyStore, secret: MountedSecret, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = store.state.last_success
    BREAKS[broken](secret)
    for attempt in (1, 2, 3):
        store.poll()
        assert store.state.failures == attempt
    assert is_known(store, OLD)
    assert not is_known(store, NEW)
    assert store.state.last_success == loaded
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "auth.keys_dir" in vars(record)["problem"]
    assert "short" not in vars(record)["problem"].replace("shorter", "")
    caplog.clear()

    shutil.rmtree(secret.path, ignore_errors=True)
    MountedSecret(secret.path, {"web.2": NEW})
    store.poll()
    assert is_known(store, NEW)
    assert not is_known(store, OLD)
    assert store.state.last_success > loaded
    assert [record.message for record in caplog.records] == [
        "reloading works again",
        "API keys changed",
    ]


def test_another_problem_is_said_again(
    store: KeyStore, secret: MountedSecret, caplog: pytest.LogCaptureFixture
) -> None:
    secret.publish({"web": "short"})
    store.poll()
    secret.publish({})
    store.poll()
    assert len({vars(record)["problem"] for record in caplog.records}) == 2


def test_a_directory_back_as_it_was_is_a_recovery(
    store: KeyStore, secret: MountedSecret, caplog: pytest.LogCaptureFixture
) -> None:
    away = secret.path.rename(secret.path.with_name("away"))
    store.poll()
    away.rename(secret.path)
    store.poll()
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert is_known(store, OLD)


def test_keys_that_all_expired_stop_the_start_but_end_a_running_service(
    store: KeyStore, secret: MountedSecret
) -> None:
    """Set to expire on purpose is an instruction, unlike an empty or broken update."""
    secret.publish({"web": f"{OLD}\n{GONE}"})
    store.poll()
    assert not is_known(store, OLD)
    with pytest.raises(SettingsError, match=r"every key in .* has expired"):
        KeyStore(secret.path)
    secret.publish({"web": f"{OLD}\n{GONE}", "web.2": NEW})
    assert is_known(KeyStore(secret.path), NEW)
