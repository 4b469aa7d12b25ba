"""Counting what each track did, from a real Prometheus that scrapes real exporters."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hack.ports import free_port
from hack.rollout.errors import RolloutError
from hack.rollout.evidence import Evidence, Prometheus
from hack.rollout.statistics import quantile
from tests.prometheus import Prometheus as RealPrometheus
from tests.rollout.exporter import Replica
from tests.server.process import eventually

STABLE = "detector-predictor-.+"
CANARY = "detector-canary-predictor-.+"
WINDOW = "2m"


Ask = Callable[..., Evidence]


@pytest.fixture
def ask(prometheus: RealPrometheus, place: str) -> Ask:
    """The evidence of some pods of this test."""

    def evidence(pods: str, window: str = WINDOW) -> Evidence:
        return Prometheus(prometheus.url).evidence(place, pods, window)

    return evidence


def served(ask: Ask, pods: str, count: float) -> Evidence:
    """The evidence, once as many requests were scraped; never more than that."""

    def found() -> Evidence | None:
        seen = ask(pods)
        assert seen.served <= count, "counted more than there were"
        return seen if seen.served == count else None

    return eventually(found, 15, f"{count} requests of {pods}")


def test_each_track_gets_its_own_counts(ask: Ask, replicas: dict[str, Replica]) -> None:
    """`detector-predictor` is a prefix of no canary pod; an unanchored match would mix the two."""
    replicas["stable"].observe({"OK": 90, "INTERNAL": 10}, {"real": 90})
    replicas["canary"].observe({"OK": 7}, {"fake": 4, "uncertain": 3}, {0.08: 5, 0.4: 2})
    assert served(ask, STABLE, 100).faults == 10
    canary = served(ask, CANARY, 7)
    assert canary.codes == {"OK": 7}
    assert canary.verdicts == {"fake": 4, "uncertain": 3}
    assert quantile(0.5, canary.durations) == pytest.approx(0.085)
    assert (canary.durations[0.1], canary.durations[0.5]) == (5, 7)


def test_the_first_error_of_a_code_is_counted(ask: Ask, replicas: dict[str, Replica]) -> None:
    """increase() sees no increase in a series that is born at 5: a new canary's errors."""
    replicas["canary"].observe({"OK": 20})
    served(ask, CANARY, 20)
    replicas["canary"].observe({"INTERNAL": 5})
    assert served(ask, CANARY, 25).faults == 5


def test_what_was_before_the_window_is_not_counted(ask: Ask, replicas: dict[str, Replica]) -> None:
    replicas["stable"].observe({"OK": 50})
    served(ask, STABLE, 50)
    eventually(lambda: ask(STABLE, "1s").served == 0 or None, 15, "the window to pass")
    assert ask(STABLE).served == 50


def test_other_namespaces_are_not_counted(
    ask: Ask, prometheus: RealPrometheus, replicas: dict[str, Replica]
) -> None:
    replicas["stable"].observe({"OK": 50})
    served(ask, STABLE, 50)
    assert Prometheus(prometheus.url).evidence("other", STABLE, WINDOW).served == 0


def test_a_crash_shows_although_the_counters_are_gone(
    ask: Ask, replicas: dict[str, Replica]
) -> None:
    replicas["canary"].observe({"INTERNAL": 30})
    served(ask, CANARY, 30)
    replicas["canary"].restart_with("INTERNAL", 1)
    eventually(lambda: ask(CANARY).restarts == 1 or None, 15, "the restart to be seen")


def test_a_refused_query_names_the_reason(prometheus: RealPrometheus) -> None:
    with pytest.raises(RolloutError, match=r"400.*parse error"):
        Prometheus(prometheus.url, pod_label="no label").evidence("default", STABLE, WINDOW)


def test_a_prometheus_that_is_gone_is_explained() -> None:
    with pytest.raises(RolloutError, match=r"cannot be reached.*--prometheus"):
        Prometheus(f"http://127.0.0.1:{free_port()}").evidence("default", STABLE, WINDOW)
