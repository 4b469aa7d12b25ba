"""A described dashboard in Grafana's format, by Grafana's own types."""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from hack.dashboards.description import GRID_WIDTH, Annotation, Dashboard, Panel, Row
from hack.dashboards.panels import PanelBuilder, build
from hack.dashboards.variables import RUNBOOK, SOURCE, all_variables


def render(dashboard: Dashboard) -> str:
    """The file's text. The same description gives the same text."""
    built = (
        builders.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.about)
        .tags(["realfake"])
        .time("now-6h", "now")
        .refresh("1m")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        # Provisioned from a file: what is changed in the browser would be lost.
        .readonly()
        .links([_link("Runbooks", RUNBOOK)])
        .variables(list(all_variables()))
        .annotations([_TitledBuilder(one) for one in dashboard.annotations])
    )
    y = number = 0
    for row in dashboard.rows:
        number += 1
        built.with_row(
            builders.Row(row.question)
            .id(number)
            .grid_pos(models.GridPos(h=1, w=GRID_WIDTH, x=0, y=y))
        )
        y += 1
        for panel, place in _placed(row, y):
            number += 1
            built.with_panel(_linked(build(panel), panel).id(number).grid_pos(place))
            bottom = place.y + place.h
        y = bottom
    return JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False).encode(built.build()) + "\n"


def _placed(row: Row, top: int) -> Iterator[tuple[Panel, models.GridPos]]:
    """From left to right; a panel that does not fit begins a new line.

    Raises:
        ValueError: A line is not filled, which would leave a hole.
    """
    x, y, height = 0, top, 0
    for panel in row.panels:
        if x == GRID_WIDTH:
            x, y, height = 0, y + height, 0
        if x + panel.width > GRID_WIDTH or height not in (0, panel.height):
            raise ValueError(f"{row.question} {panel.title} does not fit into its line")
        yield panel, models.GridPos(h=panel.height, w=panel.width, x=x, y=y)
        x, height = x + panel.width, panel.height
    if x != GRID_WIDTH:
        raise ValueError(f"{row.question} ends with a hole")


def _linked(builder: PanelBuilder, panel: Panel) -> PanelBuilder:
    links: list[Builder[models.DashboardLink]] = [
        _link(f"Runbook: {name}", f"{RUNBOOK}/{name}.md") for name in panel.runbooks
    ]
    return (
        builder.title(panel.title)
        .description(panel.reads)
        .datasource(SOURCE)
        .no_value(panel.empty)
        .links(links)
    )


def _link(title: str, url: str) -> builders.DashboardLink:
    return (
        builders.DashboardLink(title)
        .type(models.DashboardLinkType.LINK)
        .url(url)
        .target_blank(True)
    )


class _Titled(models.AnnotationQuery):
    """With what the data source for Prometheus writes on a mark, which the SDK does not know."""

    title_format = ""

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), "titleFormat": self.title_format}


class _TitledBuilder(Builder[models.AnnotationQuery]):
    def __init__(self, annotation: Annotation) -> None:
        self._annotation = annotation

    def build(self) -> models.AnnotationQuery:
        built = _Titled(
            name=self._annotation.name,
            datasource=SOURCE,
            icon_color=self._annotation.color,
            expr=self._annotation.query.expr,
        )
        built.title_format = self._annotation.title
        return built
