"""The fault drill, for real: alerts that fire, runbooks whose queries answer, repairs that help."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.drill.__main__ import configuration
from hack.drill.drill import Drill, DrillFailed
from hack.drill.faults import BrokenKey, Fault, faults
from hack.drill.installation import Installation
from hack.drill.rules import ALERTS, faster, faster_expression, faster_rules
from hack.prometheus import MISSING, Prometheus, installed
from hack.runbooks import Runbook
from tests.processes import alive, descendants
from tests.server.process import ROOT, eventually

needs_prometheus = pytest.mark.skipif(not installed(), reason=MISSING)


@contextlib.contextmanager
def drill(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a user runs it, with `directory` for what it leaves."""
    with subprocess.Popen(
        [sys.executable, "-m", "hack.drill", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@needs_prometheus
@pytest.mark.slow
@pytest.mark.server
def test_every_fault_fires_its_alert_and_ends_with_its_repair(tmp_path: Path) -> None:
    """Names, labels and thresholds can all be right, and an alert still never fire."""
    with drill(tmp_path) as process:
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    for fault in faults():
        part = output.partition(f"== {fault.name}: {fault.alert}\n")[2].partition("\n== ")[0]
        states = re.findall(rf" s  (pending|firing|inactive) +{fault.alert}\b", part)
        assert (states[0], "firing" in states, states[-1]) == ("pending", True, "inactive")
        shown = re.findall(r"^  > (.*)\n(.*)$", part, re.MULTILINE)
        assert [query for query, _ in shown] == list(Runbook.read(fault.alert).queries)
        assert [a for _, a in shown if "nothing" in a] == [
            f"  nothing: {why}" for why in fault.silent.values()
        ]
    assert not list(tmp_path.glob("tmp*"))


@needs_prometheus
@pytest.mark.slow
@pytest.mark.server
def test_an_interruption_leaves_no_process_behind(tmp_path: Path) -> None:
    """Also the frozen one, which hears no polite signal."""
    with drill(tmp_path, "frozen") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "pending" in line:
                break
        started = descendants(process.pid)
        assert len(started) >= 2, "a server and a Prometheus"
        process.send_signal(signal.SIGINT)
        assert "interrupted" in process.stdout.read()
        assert process.wait() == 130
    eventually(lambda: not alive(started) or None, 30, "all processes to end")
    assert not list(tmp_path.glob("tmp*"))


class Harmless(BrokenKey):
    """Breaks nothing."""

    def inject(self, installation: Installation) -> str:
        return "nothing"


class NeverMended(BrokenKey):
    def repair(self, installation: Installation) -> str:
        return "nothing"


class NeverLogged(BrokenKey):
    log = ("logger", "nobody")


class WithTls(BrokenKey):
    """Says that every query of the runbook has an answer, also the one about certificates."""

    silent = {}  # noqa: RUF012  # one of the base class


@needs_prometheus
@pytest.mark.slow
@pytest.mark.server
def test_a_drill_fails_by_what_did_not_happen(tmp_path: Path) -> None:
    targets = tmp_path / "targets.json"
    targets.write_text("[]")
    prometheus = Prometheus(tmp_path, configuration(tmp_path, targets, 60))
    installation = Installation(tmp_path, targets, prometheus)
    try:
        installation.add()
        patient = Drill(installation, prometheus, 60)
        hasty = Drill(installation, prometheus, 60, patience_s=0.0)
        with pytest.raises(DrillFailed, match="RealfakeReloadFailing is inactive, not firing"):
            hasty.run(Harmless())
        for fault, problem in (
            (WithTls(), "asks what nothing answers: inference_certificate"),
            (NeverLogged(), "logged nothing with logger nobody"),
        ):
            with pytest.raises(DrillFailed, match=problem):
                patient.run(fault)
            fault.repair(installation)
            patient._wait(fault.alert, "inactive", 2.0)
        never = NeverMended()
        with pytest.raises(DrillFailed, match="is firing, not inactive"):
            Drill(installation, prometheus, 60, patience_s=30.0).run(never)
        with pytest.raises(DrillFailed, match="was there before the fault"):
            hasty.run(BrokenKey())
    finally:
        installation.stop()
        prometheus.stop()


def test_without_a_prometheus_it_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hack.drill"],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (2, MISSING)


@pytest.mark.parametrize("fault", faults(), ids=lambda fault: fault.name)
def test_a_fault_follows_its_runbook(fault: Fault) -> None:
    """A runbook that is rewritten must not leave a drill that shows something else."""
    runbook = Runbook.read(fault.alert)
    assert runbook.mitigation(fault.mitigation)
    for start in fault.silent:
        assert [query for query in runbook.queries if query.startswith(start)]


def test_a_mitigation_that_is_gone_is_missed() -> None:
    with pytest.raises(KeyError, match="0 mitigations"):
        Runbook.read("RealfakeMetricsMissing").mitigation("Turn it off and on")


@pytest.mark.parametrize(
    ("expression", "sixty_times_faster"),
    [
        ("rate(a:rate5m[5m]) > 0.01", "rate(a:rate5m[5000ms]) > 0.01"),
        ("a offset 1w >= 1000", "a offset 10080000ms >= 1000"),
        ("last_over_time(a[1d]) / b[15s]", "last_over_time(a[1440000ms]) / b[250ms]"),
        ('a{b="[5m] offset 5m"}', 'a{b="[5000ms] offset 5000ms"}'),
        ("a < 14 * 24 * 3600", "a < 14 * 24 * 3600"),
    ],
)
def test_windows_and_offsets_are_divided_and_nothing_else(
    expression: str, sixty_times_faster: str
) -> None:
    assert faster_expression(expression, 60) == sixty_times_faster


def test_a_duration_of_two_units_is_refused() -> None:
    with pytest.raises(ValueError, match="1h30m"):
        faster("1h30m", 60)


def test_the_rules_are_the_real_ones_but_for_time() -> None:
    def timeless(rules: Any) -> Any:
        text = re.sub(r"\b\d+(ms|[smhdw])\b", "TIME", yaml.safe_dump(rules, width=10_000))
        return yaml.safe_load(text)["groups"]

    groups = [
        group
        for file in sorted(ALERTS.glob("*.yaml"))
        for group in yaml.safe_load(file.read_text("utf-8"))["groups"]
    ]
    assert timeless(faster_rules(60)) == timeless({"groups": groups})
    assert faster_rules(60) != {"groups": groups}
    fors = [rule["for"] for group in groups for rule in group["rules"] if "for" in rule]
    assert fors
    assert [
        rule["for"]
        for group in faster_rules(60)["groups"]
        for rule in group["rules"]
        if "for" in rule
    ] == [faster(duration, 60) for duration in fors]
