"""Settings that hold several values by name: text with commas, or YAML's own maps.

weights: Pairs[Weight] = Field({}, description="...")
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BeforeValidator

Item = TypeVar("Item")


def _pair_up(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [item.partition("=") for item in value.split(",")]
    by_name = {name.strip(): text.strip() for name, _, text in pairs}
    if "" in by_name or len(by_name) < len(pairs):
        raise ValueError("a name is missing or given twice")
    return by_name


Pairs: TypeAlias = Annotated[dict[str, Item], BeforeValidator(_pair_up)]
