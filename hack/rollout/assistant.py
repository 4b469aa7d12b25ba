"""The commands: each reads the cluster, says what it found, and returns an exit code."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import yaml

from hack.rollout import helm, report
from hack.rollout.cluster import Cluster
from hack.rollout.errors import RolloutError
from hack.rollout.evidence import Prometheus
from hack.rollout.release import Release, Track, read, stop_canary_traffic
from hack.rollout.verdict import Decision, Margins, Verdict, decide

EXIT_CODES: Final = {Decision.PROMOTE: 0, Decision.HOLD: 3, Decision.ABORT: 4}


def status(args: argparse.Namespace) -> int:
    """Print both tracks."""
    with _cluster(args) as cluster:
        print(report.status(read(cluster, args.name)))
    return 0


def analyse(args: argparse.Namespace) -> int:
    """Compare once, and print the decision."""
    with _cluster(args) as cluster:
        release, canary = _with_canary(cluster, args.name)
    print(report.status(release))
    found = _judge(args, release, canary)
    print(report.verdict(found))
    return EXIT_CODES[found.decision]


def watch(args: argparse.Namespace) -> int:
    """Compare until there is something to do: promote, abort, or the end of the patience."""
    with _cluster(args) as cluster:
        return _watch(args, cluster)


def _watch(args: argparse.Namespace, cluster: Cluster) -> int:
    end = time.monotonic() + args.timeout
    last = ""
    while True:
        release, canary = _with_canary(cluster, args.name)
        found = _judge(args, release, canary) if canary.ready else None
        line = report.progress(release, found)
        if line != last:
            print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
            last = line
        if found is not None and found.decision is not Decision.HOLD:
            break
        if time.monotonic() >= end:
            print(f"still undecided after {args.timeout:g} s")
            return EXIT_CODES[Decision.HOLD]
        time.sleep(args.interval)
    print(report.verdict(found))
    if found.decision is Decision.ABORT and args.abort:
        _stop(cluster, release)
    return EXIT_CODES[found.decision]


def promote(args: argparse.Namespace) -> int:
    """Make the canary stable, by values: print the upgrade, or run it with --execute."""
    if not args.force:
        with _cluster(args) as cluster:
            release, canary = _with_canary(cluster, args.name)
        if not canary.ready:
            raise RolloutError(f"the canary is not ready: {canary.detail or 'no reason given'}")
        found = _judge(args, release, canary)
        print(report.verdict(found))
        if found.decision is not Decision.PROMOTE:
            print("not promoted; --force promotes in spite of this")
            return EXIT_CODES[found.decision]
    return _upgrade(args, helm.promoted)


def abort(args: argparse.Namespace) -> int:
    """Take the canary's traffic away at once, then end the canary by values."""
    with _cluster(args) as cluster:
        _stop(cluster, read(cluster, args.name))
    return _upgrade(args, helm.aborted)


def _upgrade(args: argparse.Namespace, change: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    release = args.release or args.name
    values = change(helm.values_of(release, args.namespace))
    command = helm.upgrade(release, args.namespace, args.chart, args.values_out)
    _write(args.values_out, values)
    if args.execute:
        helm.run(command)
        print(f"done: {shlex.join(command)}")
        return 0
    print(
        f"wrote {args.values_out}. Commit it where your values live (GitOps), or run:\n\n"
        f"  {shlex.join(command)}\n"
    )
    return 0


def _write(path: Path, values: dict[str, Any]) -> None:
    # Values may hold digests of keys: for the person who runs this only.
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        yaml.safe_dump(values, file, sort_keys=False)


def _stop(cluster: Cluster, release: Release) -> None:
    changed = stop_canary_traffic(cluster, release)
    if changed:
        print(f"canary traffic is 0 % now: {', '.join(changed)}")
        print("this differs from helm's values until the canary is ended there too")
    else:
        print("canary traffic was 0 % already")


def _cluster(args: argparse.Namespace) -> closing[Cluster]:
    return closing(Cluster.connect(args.namespace, args.context))


def _with_canary(cluster: Cluster, name: str) -> tuple[Release, Track]:
    release = read(cluster, name)
    if release.canary is None:
        raise RolloutError(f"{name} runs no canary; start one with canary.enabled and helm upgrade")
    return release, release.canary


def _judge(args: argparse.Namespace, release: Release, canary: Track) -> Verdict:
    prometheus = Prometheus(args.prometheus, os.environ.get("PROMETHEUS_TOKEN"), args.pod_label)
    stable, other = (
        prometheus.evidence(release.namespace, track.pods, args.window)
        for track in (release.stable, canary)
    )
    return decide(
        stable,
        other,
        Margins(
            min_requests=args.min_requests,
            error_increase=args.max_error_increase,
            latency_ratio=args.max_latency_ratio,
            abstain_shift=args.max_abstain_shift,
            mix_shift=args.max_mix_shift,
        ),
    )
