"""Command line: `gwprune thresholds`, `compare`, `costs`, `report`, `config-docs`; each has `--help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import __version__


def _results(args: argparse.Namespace) -> Path:
    if args.results is not None:
        return Path(args.results)
    from .config import load_file  # noqa: PLC0415 - each command imports what it needs

    return Path(load_file(args.config).results)


def _print(args: argparse.Namespace) -> int:
    from .tables import terminal  # noqa: PLC0415

    results = _results(args)
    if args.view == "print_costs":
        from .config.plan import SECTION_OF_RULE  # noqa: PLC0415

        terminal.print_costs(results, SECTION_OF_RULE)
    elif args.view == "print_thresholds":
        terminal.print_thresholds(results, every=args.all)
    else:
        terminal.print_comparison(results)
    return 0


def _report(args: argparse.Namespace) -> int:
    from .jobs.report import build_report  # noqa: PLC0415

    print(build_report(_results(args), Path(args.config) if args.results is None else None))
    return 0


def _config_docs(args: argparse.Namespace) -> int:
    from .config.reference import update  # noqa: PLC0415

    stale = update(Path(args.root), check=args.check)
    for path in stale:
        print(f"{path} {'is out of date: run `make docs`' if args.check else 'written'}")
    return 1 if args.check and stale else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words of the command line, those of the process by default.

    Returns:
        The exit status: 0, or 1 after one line on the error stream.
    """
    parser = argparse.ArgumentParser("gwprune", description=__doc__)
    parser.add_argument("--version", action="version", version=f"gwprune {__version__}")
    commands = parser.add_subparsers(required=True)
    for name, view, text in (
        ("thresholds", "print_thresholds", "print predicted beside measured thresholds"),
        ("compare", "print_comparison", "print the methods side by side: accuracy, speed-up, epochs, thresholds"),
        ("costs", "print_costs", "print what the jobs of each rule cost, and the memory and run time to ask for"),
    ):
        command = commands.add_parser(name, help=text)
        where = command.add_mutually_exclusive_group(required=True)
        where.add_argument("results", nargs="?", help="directory of results")
        where.add_argument("--config", help="configuration that names it")
        command.set_defaults(run=_print, view=view)
        if name == "thresholds":
            command.add_argument("--all", action="store_true", help="every predictor and operator")
    command = commands.add_parser("report", help="write report.html, one page that needs nothing else")
    where = command.add_mutually_exclusive_group()
    where.add_argument("results", nargs="?", help="directory of results")
    where.add_argument("--config", default="config/config.yaml", help="configuration that names it (%(default)s)")
    command.set_defaults(run=_report)
    command = commands.add_parser("config-docs", help="generate the configuration's schema and reference")
    command.add_argument("--check", action="store_true", help="write nothing; status 1 when something would change")
    command.add_argument("--root", default=".", help="the checkout")
    command.set_defaults(run=_config_docs)
    args = parser.parse_args(arguments)
    try:
        return args.run(args)
    except Exception as error:  # the boundary of the process  # noqa: BLE001
        print(f"gwprune: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
