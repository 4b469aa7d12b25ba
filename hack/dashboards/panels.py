"""Each kind of panel in Grafana's terms. What all kinds share, `render.py` adds."""

from __future__ import annotations

from collections.abc import Mapping

from grafana_foundation_sdk.builders import (
    barchart,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from hack.dashboards.description import Bars, Heatmap, Lines, Number, Panel, Table

PanelBuilder = barchart.Panel | heatmap.Panel | stat.Panel | table.Panel | timeseries.Panel
LETTERS = "ABCDEFGHIJ"


def build(panel: Panel) -> PanelBuilder:
    """Raises TypeError for a kind that nobody has taught it."""
    match panel:
        case Lines():
            return _lines(panel)
        case Number():
            return _number(panel)
        case Heatmap():
            return _heatmap(panel)
        case Table():
            return _table(panel)
        case Bars():
            return _bars(panel)
    raise TypeError(type(panel))


def _targets(
    panel: Panel, kind: PromQueryFormat = PromQueryFormat.TIME_SERIES, *, now: bool = False
) -> list[prometheus.Dataquery]:
    found = []
    for letter, query in zip(LETTERS, panel.queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).expr(query.expr).format(kind)
        target = target.legend_format(query.legend or "__auto").exemplar(query.exemplars)
        found.append(target.instant() if now else target.range())
    return found


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(None, panel.base_color)]
    steps += [models.Threshold(value, color) for value, color in sorted(panel.limits.items())]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _fixed(color: str) -> models.DynamicConfigValue:
    return models.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})


def _lines(panel: Lines) -> timeseries.Panel:
    stacked = panel.stacked != "none"
    built = (
        timeseries.Panel()
        .targets(list(_targets(panel)))
        .unit(panel.unit)
        .fill_opacity(60 if stacked else 8)
        .line_width(1)
        .show_points(common_models.VisibilityMode.NEVER)
        # The same name has the same colour on every panel.
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
        .thresholds(_thresholds(panel))
    )
    if stacked:
        mode = common_models.StackingMode(panel.stacked)
        built.stacking(common.StackingConfig().mode(mode).group("A"))
    if panel.limits:
        built.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        )
    if panel.decimals is not None:
        built.decimals(panel.decimals)
    if panel.least is not None:
        built.min(panel.least)
    if panel.most is not None:
        built.max(panel.most)
    for name, color in panel.colors.items():
        built.override_by_name(name, [_fixed(color)])
    return built


def _number(panel: Number) -> stat.Panel:
    built = (
        stat.Panel()
        .targets(list(_targets(panel, now=True)))
        .unit(panel.unit)
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .color_mode(common_models.BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(panel))
    )
    if panel.decimals is not None:
        built.decimals(panel.decimals)
    return built


def _heatmap(panel: Heatmap) -> heatmap.Panel:
    return (
        heatmap.Panel()
        .targets(list(_targets(panel, PromQueryFormat.HEATMAP)))
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(panel.unit))
        .rows_frame(heatmap.RowsHeatmapOptions().layout(common_models.HeatmapCellLayout.LE))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .scale(heatmap_models.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .mode(common_models.TooltipDisplayMode.SINGLE)
        .show_legend()
    )


def _table(panel: Table) -> table.Panel:
    shown = [*panel.columns, *(["Value"] if panel.value else [])]
    built = (
        table.Panel()
        .targets(list(_targets(panel, PromQueryFormat.TABLE, now=True)))
        .unit(panel.unit)
        .with_transformation(_only(shown))
        .with_transformation(_arranged(shown, {**panel.columns, "Value": panel.value}))
    )
    if panel.decimals is not None:
        built.decimals(panel.decimals)
    for label, url in panel.links.items():
        link = {"title": "Runbook", "url": url, "targetBlank": True}
        built.override_by_name(panel.columns[label], [models.DynamicConfigValue("links", [link])])
    return built


def _bars(panel: Bars) -> barchart.Panel:
    values = {
        f"Value #{letter}": q.legend for letter, q in zip(LETTERS, panel.queries, strict=False)
    }
    fields = [panel.label, *values]
    joined = {"byField": panel.label, "mode": "outer"}
    return (
        barchart.Panel()
        .targets(list(_targets(panel, PromQueryFormat.TABLE, now=True)))
        .unit(panel.unit)
        .min(0)
        .x_field(panel.label)
        .show_value(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .with_transformation(_only(fields))
        .with_transformation(models.DataTransformerConfig("joinByField", options=joined))
        .with_transformation(
            models.DataTransformerConfig(
                "sortBy", options={"fields": {}, "sort": [{"field": panel.label}]}
            )
        )
        .with_transformation(_arranged(fields, values))
    )


def _only(fields: list[str]) -> models.DataTransformerConfig:
    return models.DataTransformerConfig(
        "filterFieldsByName", options={"include": {"names": fields}}
    )


def _arranged(fields: list[str], names: Mapping[str, str]) -> models.DataTransformerConfig:
    order = {name: place for place, name in enumerate(fields)}
    renamed = {field: names[field] for field in fields if names.get(field)}
    options = {"excludeByName": {}, "indexByName": order, "renameByName": renamed}
    return models.DataTransformerConfig("organize", options=options)
