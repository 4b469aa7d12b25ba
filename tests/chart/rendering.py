"""Render the chart as helm does, and look at the objects."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import helm_python
import yaml

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "realfake"
PROFILES: Final = tuple(
    sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
)
NAME: Final = "demo"
NAMESPACE: Final = "vision"

Object: TypeAlias = dict[str, Any]

# The least that renders; the tests' own values come on top.
LEAST: Final[Object] = {
    "image": {"repository": "registry.example.com/realfake"},
    "auth": {"existingSecret": "realfake-keys"},
}
ROUTE: Final[Object] = {
    "route": {
        "enabled": True,
        "parentRefs": [{"name": "public", "namespace": "gateways"}],
        "hostnames": ["realfake.example.com"],
    }
}
KNATIVE: Final[Object] = {"deploymentMode": "Knative"}


class _Strict(yaml.CSafeLoader):
    """Refuses a key that is given twice, which Kubernetes and PyYAML settle silently."""


def _mapping(loader: _Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key is given twice: {node.start_mark}: {keys}"
    return loader.construct_mapping(node, deep=True)


_Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def merged(*layers: Mapping[str, Any]) -> Object:
    """Values laid over each other as several `-f` files are."""
    result: Object = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(result.get(key), dict):
                result[key] = merged(result[key], value)
            else:
                result[key] = copy.deepcopy(value)
    return result


def profile(name: str) -> Object:
    return helm_python.values_from_yaml(
        (CHART / "ci" / f"{name}-values.yaml").read_text(encoding="utf-8")
    )


class Rendered:
    """What an install would create."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.notes = next(text for path, text in files.items() if path.endswith("NOTES.txt"))
        self.objects: list[Object] = [
            document
            for path, text in files.items()
            if not path.endswith("NOTES.txt")
            for document in yaml.load_all(text, Loader=_Strict)
            if document
        ]

    def all(self, kind: str) -> list[Object]:
        return [document for document in self.objects if document["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Object:
        found = [
            document
            for document in self.all(kind)
            if name is None or document["metadata"]["name"] == name
        ]
        assert len(found) == 1, f"{len(found)} of {kind} {name or ''}"
        return found[0]

    @property
    def service(self) -> Object:
        """The stable InferenceService."""
        return self.one("InferenceService", NAME)

    @property
    def predictor(self) -> Object:
        found: Object = self.service["spec"]["predictor"]
        return found

    @property
    def container(self) -> Object:
        return only_container(self.predictor)


def only_container(predictor: Object) -> Object:
    (container,) = predictor["containers"]
    assert isinstance(container, dict)
    return container


def env(container: Object) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


def settings_file(rendered: Rendered, name: str = f"{NAME}-config") -> Object:
    loaded: Object = yaml.safe_load(rendered.one("ConfigMap", name)["data"]["settings.yaml"])
    return loaded


def render_exactly(
    values: Mapping[str, Any],
    *,
    name: str = NAME,
    namespace: str = NAMESPACE,
    chart: Path = CHART,
) -> Rendered:
    """Raises helm_python.HelmError when helm would refuse."""
    return Rendered(_load(chart).render(dict(values), name=name, namespace=namespace))


@cache
def _load(chart: Path) -> helm_python.Chart:
    return helm_python.Chart.load(chart)


def render(*layers: Mapping[str, Any], **where: Any) -> Rendered:
    """Render `LEAST` with these values on top."""
    return render_exactly(merged(LEAST, *layers), **where)


def chart_with(tmp_path: Path, files: dict[str, str]) -> Path:
    """The chart with more files in it, as `make generate` would copy them."""
    chart = tmp_path / "realfake"
    shutil.copytree(CHART, chart)
    for name, text in files.items():
        file = chart / "files" / name
        # git keeps no empty folder, so a checkout may lack it.
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return chart
