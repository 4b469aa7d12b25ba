"""Every query of the dashboards is answered by a real Prometheus that scrapes real servers.

Two of them, stable and canary, with the labels that the chart's monitor would give them, and the
rules that some panels rest on.
"""

from __future__ import annotations

import base64
import math
import re
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from hack.dashboards.overview import OVERVIEW
from predictor.telemetry.metrics import FAKE_PROBABILITY
from tests import grafana
from tests.certificates import Authority
from tests.chart.rendering import NAME, NAMESPACE, profile, render_exactly
from tests.pictures import saved
from tests.programs import program
from tests.prometheus import Prometheus
from tests.server.conftest import StartServer
from tests.server.process import ROOT, ServerProcess, eventually
from tests.server.raw import INFER

PNG = {"Content-Type": "image/png"}
KEYS = {"greedy": "rf_tests-only-greedy-0123456789abcdefg5fffcc5f"}
WEEK_S = 7 * 24 * 3600
LIMIT_S = 90.0
WINDOWS = {"__rate_interval": "4s", "__range": "1m"}
"""As Grafana chooses for a scrape each second: four times that."""
ABSENT = {
    query.expr: query.absent
    for query in (
        *(query for row in OVERVIEW.rows for panel in row.panels for query in panel.queries),
        *(annotation.query for annotation in OVERVIEW.annotations),
    )
    if query.absent
}
"""Queries that nothing here can answer, with the reason."""

pytestmark = pytest.mark.skipif(
    program("prometheus") is None or program("promtool") is None,
    reason="prometheus is not here: apt-get install prometheus",
)


class Callers:
    """Everybody who asks one server: served, refused, too many at once, mistaken, without a key."""

    def __init__(self, server: ServerProcess, scheme: str = "http", trust: Any = True) -> None:
        self._client = httpx.Client(
            base_url=f"{scheme}://{server.http_address}",
            headers=server.headers,
            verify=trust,
            timeout=30,
        )
        self.seen: set[int] = set()

    def ask(self) -> None:
        """One round; returns when all have their answers."""
        pictures = [saved(Image.new("RGB", (128, 128), (red, 0, 0)), "PNG") for red in (5, 40, 95)]
        once = base64.b64encode(pictures[0]).decode()
        asked: list[Callable[[], httpx.Response]] = [
            *(lambda p=p: self._post(p) for p in pictures * 3),
            lambda: self._post(b"no picture"),
            lambda: self._post(pictures[0][:100]),
            lambda: self._post(pictures[0], {"X-API-Key": KEYS["greedy"]}),
            lambda: self._post(pictures[0], {"X-API-Key": "rf_nobody-0123456789abcdefghijkl"}),
            lambda: self._client.post(
                "/v1/models/realfake:predict", json={"instances": [{"image": {"b64": once}}]}
            ),
        ]
        with ThreadPoolExecutor(len(asked)) as pool:
            self.seen |= {answer.status_code for answer in pool.map(lambda one: one(), asked)}

    def _post(self, data: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        return self._client.post(INFER, content=data, headers=PNG | (headers or {}))

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def servers(start_server: StartServer, tmp_path: Path) -> dict[str, ServerProcess]:
    """Stable with everything on that has metrics of its own, canary with the defaults."""
    issued = Authority().issue()
    chain, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    chain.write_bytes(issued.chain)
    key.write_bytes(issued.key)
    stub = {"STUB_FORWARD_S": "0.01"}
    return {
        "stable": start_server(
            {
                "REALFAKE_TLS__CERT_FILE": str(chain),
                "REALFAKE_TLS__KEY_FILE": str(key),
                "REALFAKE_RATE_LIMIT__RATE": "99999/second",
                "REALFAKE_RATE_LIMIT__RATES": "greedy=1/day",
                "REALFAKE_AUDIT__DESTINATION": "file",
                "REALFAKE_AUDIT__FILE": str(tmp_path / "audit"),
                "REALFAKE_LIMITS__MAX_IN_FLIGHT": "2",
            },
            stub=stub,
            keys=KEYS,
        ),
        "canary": start_server(stub=stub, keys=KEYS),
    }


def scrape(track: str, server: ServerProcess) -> dict[str, Any]:
    """A job as the Prometheus operator makes it of the chart's ServiceMonitor."""
    rendered = render_exactly(profile("canary-route"), name=NAME, namespace=NAMESPACE)
    (endpoint,) = rendered.one("ServiceMonitor")["spec"]["endpoints"]
    service = f"{NAME}-predictor" if track == "stable" else f"{NAME}-canary-predictor"
    discovered = {
        "__meta_kubernetes_namespace": NAMESPACE,
        "__meta_kubernetes_service_name": service,
        "__meta_kubernetes_pod_name": f"{service}-5d4b8-abcde",
    }
    # What the operator adds by itself, before what the monitor says.
    standard = [
        {"source_labels": [source], "target_label": label}
        for source, label in zip(discovered, ("namespace", "job", "pod"), strict=True)
    ]
    return {
        "job_name": track,
        "static_configs": [
            {
                "targets": [f"127.0.0.1:{server.listening['metrics_port']}"],
                "labels": discovered,
            }
        ],
        "relabel_configs": standard + [_relabelling(one) for one in endpoint["relabelings"]],
    }


def _relabelling(monitor: dict[str, Any]) -> dict[str, Any]:
    """As Prometheus spells it: source_labels, not sourceLabels."""
    return {re.sub(r"([A-Z])", r"_\1", key).lower(): value for key, value in monitor.items()}


def a_week_ago() -> str:
    """Scores as OpenMetrics, for what compares with them: all at 0.5, 60 pictures a minute."""
    now = int(time.time()) - WEEK_S
    where = f'namespace="{NAMESPACE}",job="{NAME}-predictor"'
    name, lines = FAKE_PROBABILITY.name, []
    for bound in (*FAKE_PROBABILITY.buckets, math.inf):
        le = "+Inf" if bound == math.inf else str(float(bound))
        share = float(bound >= 0.5)
        for minute in range(-30, 10):
            at = now + minute * 60
            count = share * 60 * (minute + 31)
            lines.append(f'{name}_bucket{{{where},pod="old",le="{le}"}} {count} {at}')
            lines.append(f'realfake:fake_probability:cdf6h{{{where},le="{le}"}} {share} {at}')
    lines += [
        f'{name}_count{{{where},pod="old"}} {60 * (minute + 31)} {now + minute * 60}'
        for minute in range(-30, 10)
    ]
    return "\n".join([*sorted(lines), "# EOF", ""])


@pytest.fixture
def prometheus(servers: dict[str, ServerProcess], tmp_path: Path) -> Iterator[Prometheus]:
    directory = tmp_path / "prometheus"
    directory.mkdir()
    server = Prometheus(
        directory,
        [scrape(track, one) for track, one in servers.items()],
        interval="1s",
        rules=sorted((ROOT / "manifests" / "alerts").glob("*.yaml")),
        past=a_week_ago(),
    )
    yield server
    server.stop()


def chosen(prometheus: Prometheus) -> dict[str, str | list[str]]:
    """The variables as Grafana fills them when the dashboard is opened."""
    values: dict[str, str | list[str]] = dict(WINDOWS)
    (dashboard,) = grafana.dashboards().values()
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query":
            continue
        series, label = grafana.label_values(variable["query"]["query"])
        found = prometheus.label_values(label, grafana.interpolated(series, values))
        pattern = re.compile(variable.get("regex", "/(.*)/").strip("/"))
        options = sorted({match[1] for one in found if (match := pattern.search(one))})
        everything = variable.get("allValue") or options
        values[variable["name"]] = everything if variable["includeAll"] else options[:1]
    return values


def answered(prometheus: Prometheus, expr: str) -> bool:
    return any(not math.isnan(value) for value in prometheus.values(expr))


@pytest.mark.slow  # Rules and rates want several scrapes.
def test_every_query_is_answered(servers: dict[str, ServerProcess], prometheus: Prometheus) -> None:
    """A panel without data is found when somebody needs it."""
    untrusted = ssl.create_default_context()
    untrusted.check_hostname, untrusted.verify_mode = False, ssl.CERT_NONE
    servers["stable"].wait_for_log("ready")
    servers["canary"].wait_ready()
    callers = [
        Callers(servers["stable"], "https", untrusted),
        Callers(servers["canary"]),
    ]
    asked = grafana.of_panels() + grafana.of_annotations()
    missing = {(one.place, one.expr) for one in asked if one.expr not in ABSENT}
    assert len(missing) > 50, "nothing was looked at"
    values: dict[str, str | list[str]] = {}

    def all_answered() -> bool | None:
        for one in callers:
            one.ask()
        values.update(chosen(prometheus))
        for place, expr in sorted(missing):
            if answered(prometheus, grafana.interpolated(expr, values)):
                missing.remove((place, expr))
        return not missing or None

    try:
        eventually(all_answered, LIMIT_S, "an answer to every query")
    except AssertionError:
        pytest.fail(f"nothing came back, with {values}, for {missing}")
    finally:
        for one in callers:
            one.close()
    assert values["namespace"] == [NAMESPACE]
    assert values["service"] == [NAME], "stable and canary are one service"
    assert set.union(*(one.seen for one in callers)) == {*(200, 400, 401, 415, 429, 503)}
    for expr, why in ABSENT.items():
        assert not answered(prometheus, grafana.interpolated(expr, values)), f"not so: {why}"
