"""What docs/security.md promises is proved by tests that exist."""

from __future__ import annotations

import re

from tests.documentation import ROOT


def test_every_threat_names_tests_that_exist() -> None:
    _, _, section = (ROOT / "docs/security.md").read_text().partition("\n## Threats\n")
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")][1:]
    assert rows
    defined = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for threat, _, tests in rows:
        names = re.findall(r"`(test_\w+)`", tests)
        assert names, f"{threat}: no test"
        for name in names:
            assert re.search(rf"^(async )?def {name}\(", defined, re.MULTILINE), name
