"""Expressions from the definitions of metrics: a name or label that is gone stops the generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from predictor.errors import ServiceError
from predictor.telemetry.metrics import MODEL_INFO, Metric

RATE: Final = "$__rate_interval"
RANGE: Final = "$__range"
FAILED: Final = tuple(sorted(kind.code for kind in ServiceError.__subclasses__()))
"""Codes that are the service's own fault: what the availability objective counts."""
COUNTED: Final = ("OK", *FAILED)
"""What it is counted of. The client's own mistakes are neither."""
PLACE: Final = 'namespace=~"$namespace", job=~"(?:$service)(?:-canary)?(?:-predictor)?"'
"""An installation with its canary: the service variable holds what both names begin with."""

Part = Literal["", "_bucket", "_sum", "_count"]
Where = str | tuple[str, ...]


def series(metric: Metric, part: Part = "", **where: Where) -> str:
    """The series of a metric that the variables choose.

    Args:
        where: label to value, or to its alternatives.

    Raises:
        ValueError: The metric has no such label, or no such part.
    """
    if (part != "") is not (metric.kind == "histogram"):
        raise ValueError(f"{metric.name} is a {metric.kind}, and has no {part or 'value'}")
    labels = {*metric.labels, "track", *(("le",) if part == "_bucket" else ())}
    if missing := where.keys() - labels:
        raise ValueError(f"{metric.name} has no {sorted(missing)}")
    matchers = [PLACE]
    if "model_version" in metric.labels:
        matchers.append('model_version=~"$model_version"')
    matchers += [_matcher(label, value) for label, value in where.items()]
    return f"{metric.name}{part}{{{', '.join(matchers)}}}"


def _matcher(label: str, value: Where) -> str:
    return f'{label}="{value}"' if isinstance(value, str) else f'{label}=~"{"|".join(value)}"'


def named(name: str, *matchers: str) -> str:
    """A series that is not ours to define: manifests/alerts records it, with the stable `job` for
    both tracks, or Prometheus has it.
    """
    return f"{name}{{{', '.join((PLACE, *matchers))}}}"


def rate(
    metric: Metric, part: Part = "", window: str = RATE, offset: str = "", **where: Where
) -> str:
    """Args: offset: how long ago, such as `1w`."""
    ago = f" offset {offset}" if offset else ""
    return f"rate({series(metric, part, **where)}[{window}]{ago})"


def increase(metric: Metric, part: Part = "", window: str = RATE) -> str:
    return f"increase({series(metric, part)}[{window}])"


def total(expr: str, *by: str) -> str:
    return f"sum by ({', '.join(by)}) ({expr})" if by else f"sum({expr})"


def share(part: str, whole: str, *by: str) -> str:
    """How much of the whole: 0 where there is no part, nothing where there is no whole."""
    found, of = total(part, *by), total(whole, *by)
    return f"({found} or 0 * {of}) / ({of} > 0)"


def mean(metric: Metric, *by: str) -> str:
    count = total(rate(metric, "_count"), *by)
    return f"{total(rate(metric, '_sum'), *by)} / ({count} > 0)"


def quantile(level: float, metric: Metric, *by: str) -> str:
    return f"histogram_quantile({level:g}, {total(rate(metric, '_bucket'), *by, 'le')})"


def quantiles(metric: Metric, levels: Sequence[float] = (0.5, 0.9, 0.99)) -> list[tuple[str, str]]:
    """Expressions with their names: p50, p90, p99."""
    return [(quantile(level, metric), f"p{level * 100:g}") for level in levels]


def of_version(expr: str, version: str) -> str:
    """Only what pods of a model's version measured, for metrics without that label."""
    info = MODEL_INFO.name
    return (
        f"{expr} * on (namespace, job, pod) group_left (version) "
        "max by (namespace, job, pod, version) "
        f'({info}{{{PLACE}, version=~"{version}"}})'
    )
