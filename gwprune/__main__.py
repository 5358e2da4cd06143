"""Command line: `gwprune --help` lists the commands, each has `--help`."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

from . import __version__
from .spectral.predictors import PREDICTORS

_EXAMPLE = """\
example:
  gwprune predict mypkg.nets:build --weights model.pt --data mypkg.data:train --prune 0.9 --out pruned.pt

exit status: 0; 1 after one line about what is wrong with the input; 2 for a wrong command line; 130 when interrupted
"""
_DEFAULT = "config/config.yaml"


def _configuration(args: argparse.Namespace) -> Path | None:
    """The configuration's file that a command names; None where it names a folder of results."""
    given = Path(args.config or args.where or _DEFAULT)
    return None if not args.config and (given.is_dir() or given.suffix not in (".yaml", ".yml", ".json")) else given


def _results(args: argparse.Namespace) -> Path:
    config = _configuration(args)
    if config is None:
        return Path(args.where)
    from .config import load_file  # noqa: PLC0415 - each command imports what it needs

    return Path(load_file(config).results)


def _check(args: argparse.Namespace) -> int:
    from .jobs.check import print_outlook  # noqa: PLC0415 - each command imports what it needs

    config = _configuration(args)
    if config is None:
        raise ValueError(f"{args.where} is no configuration: name a .yaml or .json file")
    print_outlook(config)
    return 0


def _print(args: argparse.Namespace) -> int:
    from .tables import terminal  # noqa: PLC0415 - each command imports what it needs

    results = _results(args)
    if args.command == "costs":
        from .config.plan import SECTION_OF_RULE  # noqa: PLC0415 - each command imports what it needs

        terminal.print_costs(results, SECTION_OF_RULE)
    elif args.command == "thresholds":
        terminal.print_thresholds(results, every=args.all)
    else:
        terminal.print_comparison(results)
    return 0


def _predict(args: argparse.Namespace) -> int:
    from .command import predict_and_prune  # noqa: PLC0415 - it takes torch

    predict_and_prune(**{name: value for name, value in vars(args).items() if name not in ("run", "command")})
    return 0


def _report(args: argparse.Namespace) -> int:
    from .jobs.report import build_report  # noqa: PLC0415 - each command imports what it needs

    print(f"report: {build_report(_results(args), _configuration(args))}")
    return 0


def _config_docs(args: argparse.Namespace) -> int:
    from .config.reference import update  # noqa: PLC0415 - each command imports what it needs

    stale = update(Path(args.root), check=args.check)
    for path in stale:
        print(f"{path} {'is out of date: run `make docs`' if args.check else 'written'}")
    return 1 if args.check and stale else 0


def _epsilon(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _sparsity(text: str) -> str | float:
    if text == "predicted":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1] or 'predicted', got {text!r}")
    return value


def _add_predict(command: argparse.ArgumentParser) -> None:
    def add(name: str, text: str, **options: Any) -> None:
        default = f"; default {options['default']}" if "default" in options else ""
        command.add_argument(name, help=text + default, **options)

    add("network", "module:function that builds it; the current directory is searched last")
    add("--weights", "file of its state_dict, as torch.save writes it; nothing but tensors is unpickled")
    add("--data", "module:function that gives (input, target), dicts, a Dataset or a DataLoader", required=True)
    add(
        "--loss",
        "name in torch.nn.functional, module:function of (output, target), or own: that in the network's output",
        default="cross_entropy",
    )
    add("--samples", "number of samples to draw", type=int)
    text = "allowed rise of the loss: a number, 5%%, batch_std, or as a drop of accuracy 'accuracy: 1' (points)"
    add("--epsilon", text, type=_epsilon, default="batch_std")
    add("--predictor", "what predicts the threshold", default="width", choices=list(PREDICTORS))
    add("--operator", "curvature of the loss", default="hessian", choices=("hessian", "ggn"))
    add("--steps", "products with the curvature", type=int, default=128)
    add("--tolerance", "width of the interval at which to stop", type=float)
    add("--method", "one-shot pruning method that ranks by the weights", default="magnitude")
    add("--prunable", "name or pattern of parameters, may be repeated", action="append", metavar="PATTERN")
    add("--checkpoint", "keep the products there, and go on from it after a kill", metavar="FILE")
    add("--device", "where to compute, such as cuda")
    add("--seed", "of all random numbers", type=int, default=0)
    add("--measure", "measure the threshold by pruning, too", action="store_true")
    add("--save", "write the prediction, for gwprune.load_prediction", metavar="FILE")
    add("--plot", "draw the width curve", metavar="FILE")
    add("--prune", "sparsity to prune to, or 'predicted'", dest="sparsity", type=_sparsity, metavar="SPARSITY")
    add("--out", "of the pruned network; mask and sparsities are written beside it", metavar="FILE")


# Name -> function, what it does, example.
_COMMANDS = {
    "check": (_check, "check a configuration and say what a run of it would do; runs nothing", "my.yaml"),
    "thresholds": (_print, "print predicted beside measured thresholds", "results --all"),
    "compare": (_print, "print the methods side by side: accuracy, speed-up, epochs, thresholds", "--config my.yaml"),
    "costs": (_print, "print what the jobs of each rule cost, and the memory and run time to ask for", "results"),
    "report": (_report, "write report.html, one page that needs nothing else", "--config my.yaml"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words of the command line, those of the process by default.

    Returns:
        The exit status: 0, 1 after one line on the error stream, or 130 when interrupted. A wrong command line
        ends the process with 2.
    """
    parser = argparse.ArgumentParser(
        "gwprune",
        description="Predict how sparse a network can be pruned, and check it by pruning.",
        epilog="example: gwprune check config/config.yaml",
    )
    parser.add_argument("--version", action="version", version=f"gwprune {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    predict = commands.add_parser(
        "predict",
        help="predict how far a network of your own can be pruned, and prune it",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_predict(predict)
    predict.set_defaults(run=_predict)
    for name, (function, text, example) in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, epilog=f"example: gwprune {name} {example}")
        where = command.add_mutually_exclusive_group()
        where.add_argument(
            "where",
            nargs="?",
            help=f"folder of results or of tables alone, or file of the configuration that names it ({_DEFAULT})",
        )
        where.add_argument("--config", help="file of the configuration")
        command.set_defaults(run=function)
        if name == "thresholds":
            command.add_argument("--all", action="store_true", help="every predictor and operator")
    text = "generate the configuration's schema and reference"
    command = commands.add_parser(
        "config-docs", help=text, description=text, epilog="example: gwprune config-docs --check"
    )
    command.add_argument("--check", action="store_true", help="write nothing; status 1 when something would change")
    command.add_argument("--root", default=".", help="the checkout")
    command.set_defaults(run=_config_docs)
    args = parser.parse_args(arguments)
    if args.run is _predict and (args.sparsity is None) != (args.out is None):
        predict.error("--prune and --out go together")
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("gwprune: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads it, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the boundary of the process  # noqa: BLE001
        print(f"gwprune: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
