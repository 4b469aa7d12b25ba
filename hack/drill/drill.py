"""One fault from injection to repair: what fires, what the runbook asks, what it says to do."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final

from hack.drill.faults import Fault
from hack.drill.installation import Installation, Pod
from hack.drill.report import LEFT_OUT, log_line, paragraph, say, table
from hack.drill.rules import faster_expression
from hack.prometheus import Prometheus
from hack.runbooks import Runbook

_POLL_S: Final = 0.2
_STAYS_S: Final = 2.0
"""An alert can be gone for a moment, while one pod's series follow another's."""
_MOST_LINES: Final = 2


class DrillFailed(Exception):
    """The message says what did not happen."""


class Drill:
    """Runs faults against one installation.

    Args:
        times: how much faster than written the rules run.
        patience_s: for an alert to fire, and for it to end.
    """

    def __init__(
        self,
        installation: Installation,
        prometheus: Prometheus,
        times: int,
        patience_s: float = 90.0,
    ) -> None:
        self._installation = installation
        self._prometheus = prometheus
        self._times = times
        self._patience_s = patience_s
        self._began = 0.0
        self._states: dict[str, str] = {}

    def run(self, fault: Fault) -> None:
        """Raises: DrillFailed."""
        runbook = Runbook.read(fault.alert)
        pod, when = self._installation.pod, datetime.now(UTC)
        say(f"\n== {fault.name}: {fault.alert}")
        self._look()
        if self._state(fault.alert) != "inactive":
            raise DrillFailed(f"{fault.alert} was there before the fault")
        try:
            injected = fault.inject(self._installation)
            self._began = time.monotonic()
            say(f"injected: {injected}")
            self._wait(fault.alert, "firing")
            say(f"runbook: manifests/runbooks/{runbook.name}.md")
            paragraph(f"Meaning: {runbook.meaning}", 2)
            self._ask(fault, runbook)
            _show_log(fault, pod, when)
            say(f"mitigation: {runbook.mitigation(fault.mitigation)}")
            say(f"repaired: {fault.repair(self._installation)}")
            self._began = time.monotonic()
            self._wait(fault.alert, "inactive", _STAYS_S)
        finally:
            fault.end()

    def _wait(self, alert: str, state: str, stays_s: float = 0.0) -> None:
        end = time.monotonic() + self._patience_s
        since = None
        while True:
            self._look()
            now = time.monotonic()
            if self._state(alert) != state:
                since = None
            elif now - (since := since or now) >= stays_s:
                return
            if now > end:
                raise DrillFailed(
                    f"after {self._patience_s:g} s {alert} is {self._state(alert)}, not {state}"
                )
            time.sleep(_POLL_S)

    def _state(self, alert: str) -> str:
        return self._states.get(alert, "inactive")

    def _look(self) -> None:
        """Ask for all alerts, and print which have changed, each by the worst of its series."""
        now: dict[str, str] = {}
        summaries: dict[str, str] = {}
        for alert in sorted(self._prometheus.alerts(), key=lambda one: one["state"] == "firing"):
            name = alert["labels"]["alertname"]
            now[name], summaries[name] = alert["state"], alert["annotations"]["summary"]
        for name in sorted(now.keys() | self._states.keys()):
            if now.get(name) != self._states.get(name):
                state = now.get(name, "inactive")
                said = f": {summaries[name]}" if state == "firing" else ""
                say(f"{time.monotonic() - self._began:5.1f} s  {state:8}  {name}{said}", 2)
        self._states = now

    def _ask(self, fault: Fault, runbook: Runbook) -> None:
        for query in runbook.queries:
            say(f"> {query}", 2)
            rows = self._prometheus.query(faster_expression(query, self._times))
            why = next((w for start, w in fault.silent.items() if query.startswith(start)), None)
            if not rows and why is None:
                raise DrillFailed(f"{runbook.name}.md asks what nothing answers: {query}")
            for line in table(rows) if rows else [f"nothing: {why}"]:
                say(line, 2)


def _show_log(fault: Fault, pod: Pod, when: datetime) -> None:
    lines = pod.lines()
    chosen = "" if fault.log is None else 'select(.{} == "{}") | '.format(*fault.log)
    left_out = ", ".join(f".{name}" for name in LEFT_OUT)
    say(f"log: jq -c '{chosen}del({left_out})' {pod.log.name} | tail -{_MOST_LINES}")
    if fault.log is not None:
        field, value = fault.log
        lines = [line for line in lines if line.get(field) == value]
    since = [line for line in lines if _moment(line) >= when]
    if fault.log is not None and not since:
        raise DrillFailed(f"{pod.name} logged nothing with {field} {value}")
    if not since:
        say("not a line since the fault; before it:", 2)
    for line in (since or lines)[-_MOST_LINES:]:
        say(log_line(line), 2)


def _moment(line: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(line["timestamp"])
