"""Make what hack/compose.yaml needs, a key and a password of this machine's own, and start it."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from predictor.errors import StartupError
from predictor.security import api_keys, key_files

ROOT = Path(__file__).parent.parent
KEYS = Path(".run/keys")
KEY_ID = "local"
PASSWORD = Path(".run/grafana-password")
FILE = Path("hack/compose.yaml")
PROJECT = "realfake"
"""Given on the command line as well as in the file: older podman-compose reads it there only."""


def prepare() -> None:
    """Keep the key and the password of the last run, or make them; readable by this user only.

    Raises:
        StartupError: The key cannot be stored.
    """
    KEYS.parent.mkdir(mode=0o700, exist_ok=True)
    if not (KEYS / KEY_ID).is_file():
        key_files.store(api_keys.generate(), KEYS, KEY_ID)
    if not PASSWORD.is_file():
        with open(PASSWORD, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(secrets.token_urlsafe(24))


def program() -> list[str] | None:
    """`docker compose` where docker runs, else podman-compose, else None."""
    with suppress(FileNotFoundError):
        # A docker client without its daemon or its plugin starts nothing.
        for question in (("info",), ("compose", "version")):
            if subprocess.run(["docker", *question], capture_output=True, check=False).returncode:
                break
        else:
            return ["docker", "compose"]
    return ["podman-compose"] if shutil.which("podman-compose") else None


def main() -> int:
    os.chdir(ROOT)
    compose = program()
    if compose is None:
        print(
            "neither a running docker with its compose plugin nor podman-compose is here; on "
            "Debian: apt-get install podman podman-compose",
            file=sys.stderr,
        )
        return 1
    try:
        prepare()
    except StartupError as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    # As this user: the containers read files that nobody else may.
    environment = os.environ | {"RUN_AS": f"{os.getuid()}:{os.getgid()}"}
    print(f"API key: {KEYS / KEY_ID}; Grafana: user admin, password in {PASSWORD}", flush=True)
    options = ["--project-name", PROJECT, "--file", str(FILE)]
    try:
        return subprocess.run(
            [*compose, *options, *(sys.argv[1:] or ["up"])], env=environment, check=False
        ).returncode
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
