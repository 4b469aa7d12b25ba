"""The chart's README: its values as a table, below an introduction kept here."""

from __future__ import annotations

import json
from typing import Any

from hack.chart.values import Value, walk

INTRODUCTION = """\
<!-- Made by `make generate` from values.yaml; do not edit. -->

# realfake

One KServe InferenceService that tells real photographs from fake ones, with what running it takes:
API keys, autoscaling, canaries, network policy, disruption budget, monitoring and a helm test.

```sh
helm upgrade --install realfake charts/realfake --namespace realfake --create-namespace \\
  --set image.repository=registry.example.com/realfake \\
  --set auth.existingSecret=realfake-keys
```

Needs Kubernetes 1.29 or later and KServe 0.16 or later. How-to and runbooks are in
[docs/chart.md](../../docs/chart.md), the settings below `config` in
[docs/settings.md](../../docs/settings.md), what an upgrade asks of you in [UPGRADE.md](UPGRADE.md).

A name that is misspelt, at any depth, or a combination that cannot work stops the install with a
message that says the fix. `global` and `extra` take anything.

## Values

| Value | Default | |
|---|---|---|
"""


def render(values: tuple[Value, ...]) -> str:
    rows = [
        f"| `{value.path}` | {_default(value.default)} | {_about(value)} |"
        for value in walk(values)
    ]
    return INTRODUCTION + "\n".join(rows) + "\n"


def _default(default: Any) -> str:
    text = json.dumps(default, ensure_ascii=False)
    return f"`{text}`" if len(text) <= 60 else "see values.yaml"


def _about(value: Value) -> str:
    about = value.description.replace("|", "\\|")
    choices = value.rules.get("enum")
    if choices:
        named = ", ".join(f"`{choice}`" for choice in choices if choice)
        return f"{about} One of {named}.".strip()
    return about
