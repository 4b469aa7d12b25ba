"""A release's values after a promotion or an abort, and the helm command that applies them.

Values are what helm (or a git repository) holds, so a promotion is an upgrade with other values.
Patching weights in the cluster instead would be undone, or kept by accident, by the next upgrade.
"""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from hack.rollout.errors import RolloutError

# What a canary may override; the same keys at the top are stable's.
OVERRIDES: Final = ("image", "model", "config")
_NAMES_AN_IMAGE: Final = ("repository", "tag", "digest")
_TIMEOUT_S: Final = 900


def promoted(values: dict[str, Any]) -> dict[str, Any]:
    """The canary's overrides become stable's, and the canary ends.

    Raises:
        RolloutError: These values run no canary, or one that overrides nothing.
    """
    result = _without_canary(values)
    found = {name: _given(values["canary"].get(name) or {}) for name in OVERRIDES}
    if not any(found.values()):
        raise RolloutError(
            f"canary overrides none of {', '.join(OVERRIDES)}: there is nothing to promote"
        )
    new_image = any(name in found["image"] for name in _NAMES_AN_IMAGE)
    if new_image:
        # As the chart has it: stable's digest would win over a tag, and both are refused.
        found["image"].setdefault("digest", "")
        if found["image"]["digest"]:
            found["image"].setdefault("tag", "")
    stored = (values.get("model") or {}).get("storageUri")
    if (
        "storageUri" in found["model"]
        or "path" in found["config"].get("model", {})
        or (new_image and not stored)
    ):
        # And stable's bundle would be asked for where the canary's lies.
        found["model"].setdefault("digest", "")
    for name, override in found.items():
        if override:
            result[name] = _merged(result.get(name), override)
    return result


def aborted(values: dict[str, Any]) -> dict[str, Any]:
    """The canary ends and stable stays.

    Raises:
        RolloutError: These values run no canary.
    """
    return _without_canary(values)


def values_of(release: str, namespace: str) -> dict[str, Any]:
    """What was given to helm at the last upgrade, without the chart's defaults."""
    printed = _helm("get", "values", release, "--namespace", namespace, "--output", "yaml")
    values = yaml.safe_load(printed)
    return values if isinstance(values, dict) else {}


def upgrade(release: str, namespace: str, chart: str, values: Path) -> list[str]:
    """The command. --reset-values: what these values leave out must not come back from the last."""
    return [
        *("helm", "upgrade", release, chart, "--namespace", namespace),
        *("--reset-values", "--values", str(values), "--wait"),
    ]


def run(command: list[str]) -> None:
    """Run a command that `upgrade` made.

    Raises:
        RolloutError: helm is missing, or failed.
    """
    _helm(*command[1:])


def _helm(*args: str) -> str:
    try:
        done = subprocess.run(
            ["helm", *args], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise RolloutError("helm is not on PATH; install Helm 3.14 or later") from error
    except subprocess.TimeoutExpired as error:
        raise RolloutError(f"helm {args[0]} took more than {_TIMEOUT_S} s") from error
    if done.returncode:
        raise RolloutError(f"helm {args[0]} failed: {done.stderr.strip()}")
    return done.stdout


def _without_canary(values: dict[str, Any]) -> dict[str, Any]:
    canary = values.get("canary")
    if not isinstance(canary, dict) or canary.get("enabled") is not True:
        raise RolloutError("the release's values have no canary.enabled: true; nothing to do")
    result = copy.deepcopy(values)
    result["canary"] = {
        name: value for name, value in canary.items() if name not in (*OVERRIDES, "weight")
    } | {"enabled": False}
    return result


def _given(override: dict[str, Any]) -> dict[str, Any]:
    """Without empty strings, by which the chart means: as stable has it."""
    return {name: value for name, value in override.items() if value != ""}


def _merged(base: Any, override: Any) -> Any:
    """As helm merges values: maps by key, anything else replaced."""
    if not isinstance(base, dict) or not isinstance(override, dict):
        return copy.deepcopy(override)
    return base | {name: _merged(base.get(name), value) for name, value in override.items()}
