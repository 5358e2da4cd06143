"""Seconds of one Hessian-vector product: gwprune, other libraries and the arithmetic limit, side by side.

python -m benchmarks.products                  all networks; JSON, and tables in docs/speed.md
python -m benchmarks.products --networks vit   one, beside what the JSON has of the others
python -m benchmarks.products --quick --output /tmp/quick
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.contest import BLOCK, LANCZOS_STEPS, TOLERANCE, Case, Disagreement, run
from benchmarks.peers import CONTENDERS
from benchmarks.reporting import arguments_of, destination, environment, exit_status, markdown_table, publish
from gwprune import datasets, models
from gwprune.datasets.mnist import DEBIAN_DIR
from gwprune.jobs import artifacts

NETWORKS = ("fc5", "lenet5", "vit", "resnet20", "vgg16", "resnet18")
QUICK = ("quick_fc", "quick_conv", "quick_vit")
BLOCK_GOAL = 0.75
SETUP_GOAL = 6.0
COLD_GOAL = 1.15  # of a transformer's first product, over double backward's
RUN_GOALS = {"vit": 0.7}  # of a product within a run, over that of the fastest peer


def random_data(samples: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, str]:
    return torch.randn(samples, *shape), torch.randint(10, (samples,)), "normal random inputs"


def fashion_mnist(samples: int) -> tuple[Tensor, Tensor, str]:
    """FashionMNIST where Debian's package is installed; nothing is downloaded."""
    if not DEBIAN_DIR.exists():
        return random_data(samples, (1, 28, 28))
    train = datasets.DeviceSplit.from_data(datasets.prepare("fashion_mnist", DEBIAN_DIR), "train")
    return *train.subset(samples, seed=0).as_tensors(), "FashionMNIST"


def cases(names: Iterable[str], network_file: Path | None) -> list[Callable[[], Case]]:
    """Builders of the cases, so that one network at a time is in memory."""

    def fc5() -> Case:
        model = artifacts.load_network(network_file) if network_file else models.build("fc5", (1, 28, 28), 10)
        sizes = (125, 500, 1000, 2000, 5000, 10_000)
        return Case("fc5", model, *fashion_mnist(10_000), sizes, 10_000, 500, rounds=3, repeat=True)

    def gray(name: str) -> Case:
        model = models.build(name, (1, 28, 28), 10)
        samples = 4000 if name == "lenet5" else 500
        return Case(name, model, *fashion_mnist(samples), (125, 250, 500), 500, 250, rounds=3, repeat=True)

    def resnet20() -> Case:
        model = models.build("resnet20", (3, 32, 32), 10)
        return Case("resnet20", model, *random_data(256, (3, 32, 32)), (16, 32, 64), 64, 16, rounds=3, repeat=False)

    def convolutional(name: str) -> Case:
        model = models.build(name, (3, 32, 32), 10)  # up to 64 pixels ResNets take their CIFAR stem
        return Case(name, model, *random_data(512, (3, 32, 32)), (8, 32, 128), 128, 16, rounds=2, repeat=False)

    def quick_fc() -> Case:
        model = models.build("fc", (1, 8, 8), 10, hidden=[32])
        return Case("quick_fc", model, *random_data(100, (1, 8, 8)), (25, 100), 100, 50, rounds=2, repeat=True)

    def quick_conv() -> Case:
        model = models.build("resnet18", (3, 8, 8), 10, width=0.125)
        return Case("quick_conv", model, *random_data(16, (3, 8, 8)), (8, 16), 16, 8, rounds=1, repeat=False)

    def quick_vit() -> Case:
        model = models.build("vit", (1, 8, 8), 10, width=12, depth=1)
        return Case("quick_vit", model, *random_data(20, (1, 8, 8)), (10, 20), 20, 10, rounds=1, repeat=True)

    known = {"fc5": fc5, "resnet20": resnet20, "quick_fc": quick_fc, "quick_conv": quick_conv, "quick_vit": quick_vit}
    known |= {name: lambda name=name: gray(name) for name in ("lenet5", "vit")}
    return [known.get(name, lambda name=name: convolutional(name)) for name in names]


def goals(name: str, result: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    """(network, what, value, goal) for each goal of a network, met by a value that is not above it."""
    timed = {key: part for key, part in result["contenders"].items() if "error" not in part}
    peers = {
        key: part
        for key, part in timed.items()
        if not CONTENDERS[key].ours and part["relative_error"] <= TOLERANCE  # finite differences may be wrong
    }
    if "gwprune" not in timed:
        return []
    ours, limit, goal = timed["gwprune"], result["limit"]["scratch"], 1.15 if "fc" in name else 1.5
    rows = [
        (name, f"{label} / limit from scratch", ours[key] / limit, goal)
        for key, label in (("first", "first product"), ("run", f"one of {LANCZOS_STEPS}"))
    ]
    if name in RUN_GOALS and "double_backward" in peers:
        value = ours["first"] / peers["double_backward"]["first"]
        rows.append((name, "first product / double backward's", value, COLD_GOAL))
    for key, label in (("single", "set-up and first product"), ("run", f"one of {LANCZOS_STEPS}")):
        if best := min(peers, key=lambda peer: peers[peer][key], default=None):
            value = ours[key] / peers[best][key]
            goal = RUN_GOALS.get(name, 1.0) if key == "run" else 1.0
            rows.append((name, f"{label} / that of the fastest peer ({best})", value, goal))
    labels = {"kept": "graphs there", "fresh": "fresh operator", "rebuilt": "no graphs kept"}
    for key, value in (result["block"] or {}).items():
        rows.append((name, f"probe in a block of {BLOCK} / single, {labels[key]}", value, BLOCK_GOAL))
    if "setup_in_products" in result:
        what = "set-up of a prediction with all checks / a later product"
        rows.append((name, what, result["setup_in_products"], SETUP_GOAL))
    return rows


def network_table(result: dict[str, Any]) -> str:
    """Seconds and ratios of every contender, with the limits as the last rows."""
    limit = result["limit"]
    ours = result["contenders"]["gwprune"].get("run")
    per_run = f"one of {LANCZOS_STEPS}"

    def cells(label: str, batch: Any, setup: str, first: float, later: float, run: float) -> dict[str, Any]:
        return {
            "way": label,
            "batch": batch,
            "set-up s": setup,
            "first s": f"{first:.3g}",
            "later s": f"{later:.3g}",
            f"{per_run} s": f"{run:.3g}",
            "in forward passes": f"{run / limit['forward']:.2f}",
            "first / limit": f"{first / limit['scratch']:.2f}",
            f"{per_run} / limit": f"{run / limit['scratch']:.2f}",
            "/ gwprune": f"{run / ours:.3g}" if ours else "",
        }

    scratch, shared = limit["scratch"], limit["shared"]
    over_run = (scratch + (LANCZOS_STEPS - 1) * shared) / LANCZOS_STEPS
    limits = [
        cells("limit, every product from scratch", "", "", scratch, scratch, scratch),
        cells("limit, primal passes shared", "", "", scratch, shared, over_run),
    ]
    rows = []
    for name, part in result["contenders"].items():
        if "error" in part:
            rows.append({**dict.fromkeys(limits[0], ""), "way": name, "/ gwprune": part["error"].splitlines()[0][:120]})
            continue
        label = name if CONTENDERS[name].exact else f"{name} (relative error {part['relative_error']:.1g})"
        batch = part["batch_size"] or "own"
        rows.append(cells(label, batch, f"{part['setup']:.3g}", part["first"], part["later"], part["run"]))
    return markdown_table([*rows, *limits])


def section(results: dict[str, Any]) -> str:
    """The generated part of docs/speed.md."""
    versions = {c.distribution: c.version or "not installed" for c in CONTENDERS.values() if c.distribution != "torch"}
    words = [
        {"network": network, "measure of gwprune": what, "value": f"{value:.2f}", "goal, at most": f"{goal:.2f}"}
        | {"met": "yes" if value <= goal else "no"}
        for name, result in results["networks"].items()
        for network, what, value, goal in goals(name, result)
    ]
    parts = [
        f"{', '.join(f'{package} {version}' for package, version in versions.items())}.",
        markdown_table(words),
    ]
    for name, result in results["networks"].items():
        limit, machine = result["limit"], result["environment"]
        parts.append(
            f"### {name}: {result['samples']:,} samples ({result['data']}), D = {result['dimension']:,}\n\n"
            f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}. "
            f"One forward pass's multiplications take {limit['forward']:.3g} s at the peak; a product needs "
            f"{limit['scratch_forward_units']:.2f} times as many from scratch, {limit['shared_forward_units']:.2f} "
            f"when the primal passes are shared. Median of {result['rounds']} rounds.\n\n{network_table(result)}"
        )
    return "\n\n".join(parts)


def earlier(path: Path) -> dict[str, Any]:
    """What a file of this program has of networks, each with the environment that it was timed in."""
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"networks": {}}
    return {name: {"environment": record["environment"], **own} for name, own in record["networks"].items()}


def main(arguments: list[str] | None = None) -> int:
    """Run the contest on each network; the exit status is 1 when a way to form the product gives another vector."""
    parser = arguments_of("products", __doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--quick", action="store_true", help="tiny networks, to test the program")
    parser.add_argument("--rounds", type=int, help="turns of every contender (default: 3; 2 of vgg16, resnet18)")
    parser.add_argument("--network-file", type=Path, help="trained network for fc5, as `gwprune` stores it")
    parser.add_argument("--memory-gb", type=float, default=8, help="no batch whose product needs more (default: 8)")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {"networks": earlier(destination("products", ".json", options.output))}
    names = QUICK if options.quick else options.networks
    order = (*NETWORKS, *QUICK)
    for build in cases(names, options.network_file):
        torch.manual_seed(0)
        case, load = build(), os.getloadavg()
        try:
            result = run(
                case, options.rounds or case.rounds, options.memory_gb, lambda line: print(line, file=sys.stderr)
            )
        except Disagreement as error:
            return exit_status([str(error)])
        results["networks"][case.name] = {
            "environment": environment(),
            "load": [load, os.getloadavg()],
            "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            **result,
        }
        results["networks"] = {name: results["networks"][name] for name in order if name in results["networks"]}
        # After every network: an interrupted run leaves what it has.
        publish("products", results, section(results), options.output, "speed.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
