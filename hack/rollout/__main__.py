"""`python -m hack.rollout`: docs/rollouts.md explains when to use which command."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from hack.rollout import assistant
from hack.rollout.errors import RolloutError
from hack.rollout.verdict import Margins

Command = Callable[[argparse.Namespace], int]


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 done (or: promote), 1 something is wrong, 2 wrong arguments, 3 hold, 4 abort.
    """
    args = _parser().parse_args(argv)
    run: Command = args.run
    try:
        return run(args)
    except RolloutError as error:
        print(f"rollout: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hack.rollout", description="Watch, judge, promote and abort a canary."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add(commands, "status", assistant.status, "show both tracks, their shares and readiness")
    _analysis(_add(commands, "analyse", assistant.analyse, "compare canary with stable, once"))
    watch = _add(commands, "watch", assistant.watch, "compare until there is a decision")
    _analysis(watch)
    watch.add_argument("--interval", type=_positive, default=15.0, metavar="SECONDS")
    watch.add_argument("--timeout", type=_positive, default=3600.0, metavar="SECONDS")
    watch.add_argument(
        "--abort", action="store_true", help="take the canary's traffic away on an abort decision"
    )
    promote = _add(commands, "promote", assistant.promote, "make the canary stable")
    _analysis(promote)
    promote.add_argument("--force", action="store_true", help="do not ask Prometheus first")
    _upgrade(promote)
    _upgrade(_add(commands, "abort", assistant.abort, "stop its traffic now, and end it"))
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Command,
    about: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
    command.add_argument("--name", default="realfake", help="the InferenceService (realfake)")
    command.add_argument("--namespace", default="default")
    command.add_argument("--context", help="of KUBECONFIG")
    command.set_defaults(run=run)
    return command


def _analysis(command: argparse.ArgumentParser) -> None:
    default = Margins()
    command.add_argument(
        "--prometheus",
        default="http://127.0.0.1:9090",
        metavar="URL",
        help="its address; PROMETHEUS_TOKEN in the environment is sent as a bearer token",
    )
    command.add_argument("--pod-label", default="pod", help="the label that holds a pod's name")
    command.add_argument("--window", type=_duration, default="15m", help="such as 15m or 2h")
    for flag, value, about in (
        ("--min-requests", default.min_requests, "of each track, or there is no decision"),
        ("--max-error-increase", default.error_increase, "of the share of failed requests"),
        ("--max-latency-ratio", default.latency_ratio, "of the canary's p99 to stable's"),
        ("--max-abstain-shift", default.abstain_shift, "of the share of uncertain verdicts"),
        ("--max-mix-shift", default.mix_shift, "of the share of fake verdicts, up or down"),
    ):
        command.add_argument(
            flag, type=type(value), default=value, metavar="N", help=f"{about} ({value})"
        )


def _upgrade(command: argparse.ArgumentParser) -> None:
    command.add_argument("--release", help="helm's name for it, where it differs from --name")
    command.add_argument("--chart", default="charts/realfake", help="path or oci:// reference")
    command.add_argument("--values-out", type=Path, default=Path("rollout-values.yaml"))
    command.add_argument("--execute", action="store_true", help="run helm instead of printing it")


def _duration(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]*(s|m|h|d)", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 15m")
    return text


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
