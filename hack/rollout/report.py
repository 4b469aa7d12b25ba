"""What the assistant prints."""

from __future__ import annotations

from hack.rollout.release import Release, Track
from hack.rollout.verdict import Outcome, Verdict

_MARKS = {Outcome.FINE: "ok  ", Outcome.UNSURE: "wait", Outcome.WORSE: "BAD "}


def status(release: Release) -> str:
    """Both tracks, a line each."""
    head = f"{release.namespace}/{release.name}: "
    if release.canary is None:
        return f"{head}no canary\n{_track(release.stable)}"
    return f"{head}canary by {release.strategy}\n{_track(release.stable)}\n{_track(release.canary)}"


def verdict(found: Verdict) -> str:
    """The decision, then each check with its numbers."""
    lines = [f"  {_MARKS[finding.outcome]}  {finding.text}" for finding in found.findings]
    return "\n".join([f"decision: {found.decision}", *lines])


def progress(release: Release, found: Verdict | None) -> str:
    """One line for a log: shares, readiness, and the first reason for the decision."""
    canary = release.canary
    if canary is None:
        return f"{release.name}: no canary"
    ready = "ready" if canary.ready else f"not ready ({canary.detail or 'no reason given'})"
    line = f"canary {canary.percent:g} %, {ready}"
    if found is None:
        return line
    worst = max(found.findings, key=lambda finding: finding.outcome)
    return f"{line}; {found.decision}: {worst.text}"


def _track(track: Track) -> str:
    ready = "ready" if track.ready else f"not ready: {track.detail or 'no reason given'}"
    return f"  {track.name:<7} {track.percent:5.1f} %  {ready}"
