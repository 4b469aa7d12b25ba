"""The figures of a stretch of load, as they are shown, compared and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hack.load.samples import Window, percentile

SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


@dataclass(frozen=True, slots=True)
class Figures:
    """Attributes: deadline_s: good answers within it are goodput; None counts them all."""

    window: Window
    deadline_s: float | None

    def value(self, name: str) -> float | None:
        """In seconds, in answers a second, or as a share."""
        if name in SHARES:
            return percentile(self.window.seconds(), SHARES[name])
        if name == "errors":
            return self.window.errors
        if name == "goodput" and self.deadline_s is not None:
            return self.window.goodput(self.deadline_s)
        return self.window.throughput

    def shown(self, name: str) -> str:
        value = self.value(name)
        if value is None:
            return "unknown: no answer was good"
        if name in SHARES:
            return f"{value * 1000:.1f} ms"
        return f"{value:.3%}" if name == "errors" else f"{value:.1f}/s"

    def line(self) -> str:
        """One window, for the progress."""
        names = ("goodput", "errors") if self.deadline_s else ("throughput", "errors")
        parts = [f"{name} {self.shown(name)}" for name in names]
        return ", ".join([*parts, *(f"{name} {self.shown(name)}" for name in ("p50", "p99"))])

    def table(self) -> str:
        names = ["throughput", *(["goodput"] if self.deadline_s else []), "errors", *SHARES]
        lines = [f"  {name:<12} {self.shown(name)}" for name in names]
        codes = ", ".join(f"{code}: {number}" for code, number in sorted(self.window.codes.items()))
        lines.append(f"  {'codes':<12} {codes or 'none'}")
        if told := self.window.retry_after_s:
            lines.append(f"  {'Retry-After':<12} {told[0]:g} to {told[-1]:g} s, {len(told)} times")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        told = self.window.retry_after_s
        return {
            "requests": len(self.window.samples),
            "taken_s": self.window.taken_s,
            "throughput": self.value("throughput"),
            "goodput": self.value("goodput"),
            "errors": self.value("errors"),
            "seconds": {name: self.value(name) for name in SHARES},
            "codes": dict(sorted(self.window.codes.items())),
            "retry_after_s": [told[0], told[-1]] if told else None,
            "client_late_s": self.window.client_late_s,
        }
