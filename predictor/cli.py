"""The command line. Each command calls one function, and imports it when it runs."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from predictor import cli_audit, cli_keys
from predictor.errors import StartupError

log = logging.getLogger("predictor.cli")

Command: TypeAlias = Callable[[argparse.Namespace], int]

_TAKES_SETTINGS: Final = ("serve", "check", "score")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0, 1 when the answer is no, 2 for wrong arguments or settings,
        3 for a bundle that cannot be served, 130 when interrupted, 141 when nobody reads what
        is printed.
    """
    from predictor.settings.sources import split_flags

    flags, rest = split_flags(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    args = parser.parse_args(rest)
    if flags and args.command not in _TAKES_SETTINGS:
        parser.error(f"`{args.command}` takes no settings, and {flags[0].partition('=')[0]} is one")
    args.settings_flags = flags
    command: Command = args.run
    try:
        code = command(args)
        if command not in (_serve, _score):
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        if command in (_serve, _score):  # of a socket, or whatever else they have
            raise
        # Whoever read what is printed has enough (`| head`); what is left must not fail at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except StartupError as error:
        if command is _serve:
            _log_refusal(error)
        if command is not _serve or sys.stderr.isatty():
            print(f"realfake: {error.message}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m predictor",
        description="realfake: tell real photographs from fake ones, as a KServe predictor.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add(commands, "serve", _serve, "serve a model bundle over HTTP and gRPC")
    check = _add(commands, "check", _check, "validate the settings and print them, with sources")
    check.add_argument("--json", action="store_true", help="print JSON instead of YAML")
    score = _add(commands, "score", _score, "classify files and folders of pictures")
    score.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    score.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="*.jsonl, *.csv or *.parquet"
    )
    score.add_argument(
        "--no-resume",
        dest="resume",
        action="store_false",
        help="score everything again instead of going on where FILE ends",
    )
    cli_keys.add(commands, _add)
    cli_audit.add(commands, _add)
    _add_model(commands)
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Command,
    about: str,
) -> argparse.ArgumentParser:
    epilog = None
    if name in _TAKES_SETTINGS:
        from predictor.settings import knobs
        from predictor.settings.reference import as_flags

        epilog = (
            "settings, with defaults (in the environment REALFAKE_GROUP__NAME; in the YAML file\n"
            f"that REALFAKE_CONFIG_FILE names, the same names):\n{as_flags(knobs().values())}"
        )
    parser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def _add_model(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    model = commands.add_parser("model", help="look at and make model bundles", allow_abbrev=False)
    actions = model.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, run, about in (
        ("inspect", _model_inspect, "print what a bundle says about itself, as JSON"),
        ("verify", _model_verify, "check digests, weights and golden vectors"),
    ):
        action = _add(actions, name, run, about)
        action.add_argument("path", type=Path, metavar="DIR")
        action.add_argument("--allow-pth", action="store_true", help="accept a pickled .pth")
    export = _add(actions, "export", _model_export, "add model.onnx, for CPUs, to a bundle")
    export.add_argument("path", type=Path, metavar="DIR")
    reference = _add(
        actions, "reference", _model_reference, "tell a bundle what scores to expect, for drift"
    )
    reference.add_argument("path", type=Path, metavar="DIR")
    reference.add_argument(
        "scores",
        type=Path,
        metavar="FILE.jsonl",
        help="what `score` wrote, with this bundle, of pictures as callers will send them",
    )
    convert = _add(actions, "convert", _model_convert, "make a bundle from a .pth state dict")
    convert.add_argument("checkpoint", type=Path, metavar="FILE.pth")
    convert.add_argument("output", type=Path, metavar="DIR", help="a new directory")
    convert.add_argument("--architecture", required=True, metavar="NAME", help="timm's name")
    convert.add_argument("--labels", required=True, metavar="A,B", help="in the network's order")
    convert.add_argument("--fake", required=True, metavar="A", help="labels that mean fake")
    convert.add_argument("--input-size", type=int, metavar="PIXELS", help="default: timm's own")
    convert.add_argument("--version", default="1", help="name of this version (default 1)")


def _serve(args: argparse.Namespace) -> int:
    # Process 1 of a container gets no signal that it does not handle, and imports take seconds.
    signal.signal(signal.SIGTERM, _end_before_serving)

    from predictor.settings import load_settings
    from predictor.telemetry.logging import configure_logging

    settings = load_settings(args.settings_flags)
    telemetry = settings.telemetry
    configure_logging(telemetry.log_level, severity_field=telemetry.log_severity_field)

    from predictor.serving.server import serve

    return serve(settings)


def _end_before_serving(number: int, frame: object) -> None:
    # Not SystemExit: it would arrive in somebody's import, where a bare `except` may take it.
    os._exit(128 + number)


def _log_refusal(error: StartupError) -> None:
    """A pod's streams end in one place, where every line is expected to be JSON."""
    from predictor.telemetry.logging import configure_logging, is_configured

    if not is_configured():  # as the settings have it, where they were read
        configure_logging("INFO")
    log.critical(error.message, extra={"exit_code": error.exit_code})


def _check(args: argparse.Namespace) -> int:
    import json

    from predictor.settings import effective, resolve
    from predictor.settings.reference import as_yaml

    resolved = resolve(args.settings_flags)
    values = effective(resolved.settings)
    if args.json:
        print(json.dumps({"settings": values, "sources": dict(resolved.sources)}, indent=2))
    else:
        print(as_yaml(values, resolved.sources))
    return 0


def _model_inspect(args: argparse.Namespace) -> int:
    import json

    from predictor.bundle.proving import inspect

    print(json.dumps(inspect(args.path, allow_pth=args.allow_pth), indent=2))
    return 0


def _model_verify(args: argparse.Namespace) -> int:
    from predictor.bundle.proving import verify

    for line in verify(args.path, allow_pth=args.allow_pth):
        print(f"ok: {line}")
    return 0


def _model_export(args: argparse.Namespace) -> int:
    from predictor.bundle.packages import require_torch

    require_torch("`model export`")

    from predictor.bundle.export import export

    exported = export(args.path)
    print(
        f"wrote {exported.path} ({exported.size} bytes beside the weights; "
        f"probabilities within {exported.parity:.1g} of theirs)"
    )
    return 0


def _model_reference(args: argparse.Namespace) -> int:
    from predictor.bundle.manifest import read_manifest
    from predictor.bundle.reference import write_reference

    reference = write_reference(read_manifest(args.path), args.scores)
    again = read_manifest(args.path)
    print(f"wrote the scores of {reference.pictures} pictures; now {again.digest[:12]}")
    return 0


def _model_convert(args: argparse.Namespace) -> int:
    from predictor.bundle.packages import require_torch

    require_torch("`model convert`")

    from predictor.bundle.convert import convert

    manifest = convert(
        args.checkpoint,
        args.output,
        architecture=args.architecture,
        label_names=[name.strip() for name in args.labels.split(",")],
        fake_labels=[name.strip() for name in args.fake.split(",")],
        input_size=args.input_size,
        version=args.version,
    )
    print(f"wrote {manifest.path} ({manifest.digest[:12]})")
    return 0


def _score(args: argparse.Namespace) -> int:
    import asyncio

    from predictor.settings import resolve

    settings = resolve(args.settings_flags, serving=False).settings

    from tqdm import tqdm

    from predictor.inference.classifier import load_classifier
    from predictor.inference.scoring import CONCURRENCY, Summary, find_pictures, score_paths

    files = find_pictures(args.paths)
    classifier = load_classifier(settings)

    async def run() -> Summary:
        try:
            with tqdm(total=len(files), unit="picture", disable=None) as bar:
                return await score_paths(
                    classifier,
                    files,
                    args.output,
                    resume=args.resume,
                    concurrency=min(CONCURRENCY, settings.batching.max_queue),
                    max_bytes=settings.limits.max_image_bytes,
                    progress=bar.update,
                )
        finally:
            # The interpreter must not end under a device thread.
            await classifier.close()

    summary = asyncio.run(run())
    print(
        f"{summary.classified} classified, {summary.refused} refused, "
        f"{summary.resumed} taken over from an earlier run: {args.output}",
        file=sys.stderr,
    )
    return 0
