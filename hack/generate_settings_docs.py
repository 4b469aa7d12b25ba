"""Write docs/settings.md from the settings classes; with --check, fail when it is stale.

With --schema, print the JSON schema of the settings (of a REALFAKE_CONFIG_FILE) instead.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from pathlib import Path

from predictor.settings import Settings, knobs
from predictor.settings.reference import as_markdown

TARGET = Path(__file__).parent.parent / "docs" / "settings.md"

INTRODUCTION = """\
<!-- Made by `make generate` from predictor/settings/; do not edit. -->

# Settings

Each setting has one dotted name and four places to give it. The first place that names it wins:

1. command line: `--server.http-port 9000` (on `serve`, `check` and `score`)
2. environment: `REALFAKE_SERVER__HTTP_PORT=9000`
3. a `.env` file in the working directory, with the same names as the environment
4. the YAML file that `REALFAKE_CONFIG_FILE` names: `server: {http_port: 9000}`

A name that does not exist, a value out of range or two settings that contradict each other stop
the process before a port opens, with exit code 2 and one line for each problem.
`python -m predictor check` runs only these checks and prints what is in effect and where it comes
from. No setting holds a secret: API keys are files in `auth.keys_dir`.

Variables that Kubernetes sets for a Service called `realfake…` (`REALFAKE_SERVICE_HOST`,
`REALFAKE_PORT=tcp://…`) are no settings and are ignored.
"""


def render() -> str:
    groups = {
        name: inspect.getdoc(field.annotation) or ""
        for name, field in Settings.model_fields.items()
    }
    return f"{INTRODUCTION}\n{as_markdown(knobs(), groups).rstrip()}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true")
    action.add_argument("--schema", action="store_true")
    args = parser.parse_args()
    if args.schema:
        print(json.dumps(Settings.model_json_schema(), indent=2))
        return 0
    text = render()
    if not args.check:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(text, encoding="utf-8")
        print("wrote docs/settings.md")
        return 0
    if not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
        print("docs/settings.md is stale; run: make generate", file=sys.stderr)
        return 1
    print("docs/settings.md matches the settings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
