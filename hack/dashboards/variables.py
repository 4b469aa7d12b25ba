"""What the reader chooses at the top of a dashboard."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import dashboard as models

from hack.dashboards.promql import series
from predictor.telemetry.metrics import IN_FLIGHT, MODEL_INFO

SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
RUNBOOKS_UNKNOWN: Final = "https://realfake.invalid/runbooks"
"""Until somebody says where they are published; the chart replaces it (`alerts.runbookUrl`)."""
RUNBOOK: Final = "${runbooks:raw}"
# A Service's name without what KServe and the canary add to it.
NAME_OF_JOB: Final = "/^(.+?)(?:-canary)?(?:-predictor)?$/"

Builder = builders.DatasourceVariable | builders.QueryVariable | builders.TextBoxVariable


def all_variables() -> tuple[Builder, ...]:
    # In flight has a series from the first scrape on, before the model is loaded.
    version = f"label_values({series(MODEL_INFO)}, version)"
    return (
        builders.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _chosen("namespace", "Namespace", f"label_values({IN_FLIGHT.name}, namespace)"),
        _chosen(
            "service",
            "Service",
            f'label_values({IN_FLIGHT.name}{{namespace=~"$namespace"}}, job)',
        )
        .regex(NAME_OF_JOB)
        .description("An installation with its canary."),
        # Everything, and not a list of what is loaded: requests before that have version `none`.
        _chosen("model_version", "Model version", version)
        .all_value(".*")
        .description("Of requests, latency, verdicts and scores; other panels show all versions."),
        _query("other_version", "Compare scores with", version).description(
            "A second version, for the panel on scores."
        ),
        builders.TextBoxVariable("runbooks")
        .label("Runbooks at")
        .default_value(RUNBOOKS_UNKNOWN)
        .current(models.VariableOption(text=RUNBOOKS_UNKNOWN, value=RUNBOOKS_UNKNOWN))
        .description("Where manifests/runbooks is published; panels link to its pages."),
    )


def _query(name: str, label: str, query: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": query, "refId": name})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def _chosen(name: str, label: str, query: str) -> builders.QueryVariable:
    """Any number of values, at first all."""
    everything = models.VariableOption(text="All", value="$__all", selected=True)
    return _query(name, label, query).multi(True).include_all(True).current(everything)
