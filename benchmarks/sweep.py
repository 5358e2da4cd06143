"""A one-shot sweep of 1,000 sparsities of FC5 on 10,000 test images: masks that share work beside one by one.

    python -m benchmarks.sweep [--data FILE] [--epochs 12] [--output DIRECTORY]
    python -m benchmarks.sweep --quick --output DIRECTORY

Trains FC5 on FashionMNIST with and without an l1 term, ranks by magnitude, and evaluates 0, 0.001, ..., 0.999 by
`training.many_masks`. One by one, each mask is a full forward pass: 20 of them, evenly spread over the same grid and
timed in between, stand for all.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gwprune import datasets, models
from gwprune.datasets import DeviceSplit
from gwprune.datasets.mnist import DEBIAN_DIR
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import rank, removed_count
from gwprune.training.evaluation import evaluate, pruned
from gwprune.training.many_masks import evaluate_masks
from gwprune.training.train import Recipe, train

from .contest import timed
from .reporting import environment, markdown_table, print_table, publish

NAME = "sweep"
POINTS = 1000
SAMPLE = 20
GOAL = 60.0  # seconds
L1 = {"FC5, l1 5e-5": 5e-5, "FC5, no l1": 0.0}
_HEADER = (
    "network", "points", "seconds", "goal, at most", "met", "one by one, s", "one by one / shared",
    "largest difference of a loss, relative", "of an accuracy, points",
)  # fmt: skip


def prepared(file: Path | None, quick: bool) -> dict[str, DeviceSplit]:
    """The splits of a prepared data file, by default of FashionMNIST from Debian's package; random ones to be quick."""
    if quick:
        torch.manual_seed(0)
        images, labels = torch.randint(0, 256, (300, 1, 8, 8), dtype=torch.uint8), torch.randint(10, (300,))
        return dict.fromkeys(("train", "val", "test"), DeviceSplit(images, labels, [0.5], [0.3]))
    data = datasets.load(file) if file else datasets.prepare("fashion_mnist", DEBIAN_DIR)
    return {name: DeviceSplit.from_data(data, name) for name in ("train", "val", "test")}


def compare(model: nn.Module, split: DeviceSplit, points: int, sample: int) -> dict[str, Any]:
    """Seconds of a sweep of ``points`` sparsities below 1, both ways, and the largest differences."""
    prunable = PrunableSet(model)
    ranking = rank("magnitude", prunable, 0)
    counts = [removed_count(round(i / points, 6), prunable.dimension) for i in range(points)]
    evaluate(model, split)
    found, shared, alone = [], 0.0, 0.0
    loss = accuracy = 0.0
    length = points // sample
    masks = evaluate_masks(model, prunable, ranking, counts, [split])
    for start in range(0, points, length):
        seconds, part = timed(lambda: [next(masks)[0] for _ in range(length)])
        shared += seconds
        found += part

        def one(count: int = counts[start]):
            with pruned(prunable, ranking, [count]) as pruning:
                next(pruning)
                return evaluate(model, split)

        seconds, single = timed(one)
        alone += seconds
        loss = max(loss, abs(part[0].loss - single.loss) / single.loss)
        accuracy = max(accuracy, abs(part[0].accuracy - single.accuracy))
    return {
        "points": len(found),
        "seconds": shared,
        "one_by_one": alone * points / sample,
        "one_by_one_measured": sample,
        "loss_difference": loss,
        "accuracy_difference": accuracy,
        "images": len(split),
        "dimension": prunable.dimension,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="prepared data file (default: FashionMNIST of Debian's package)")
    parser.add_argument("--epochs", type=int, default=12, help="of training (default: 12)")
    parser.add_argument("--quick", action="store_true", help="tiny networks, to test the program")
    parser.add_argument("--output", type=Path, help="a directory instead of the repository's docs and benchmarks")
    options = parser.parse_args(arguments)
    splits = prepared(options.data, options.quick)
    shape = tuple(splits["test"].images.shape[1:])
    record: dict[str, Any] = {"environment": environment(), "load_before": os.getloadavg(), "networks": {}}
    for name, l1 in L1.items():
        torch.manual_seed(0)
        model = models.build("fc", shape, 10, hidden=[16, 12]) if options.quick else models.build("fc5", shape, 10)
        epochs = 1 if options.quick else options.epochs
        history = train(model, splits["train"], splits["val"], Recipe(epochs=epochs, l1=l1), 0)
        print(name, history[-1], file=sys.stderr)
        found = compare(model, splits["test"], 40 if options.quick else POINTS, SAMPLE)
        record["networks"][name] = {"l1": l1, "epochs": epochs, **found}
    record["load_after"] = os.getloadavg()
    rows = [
        [
            name, row["points"], f"{row['seconds']:.1f}", f"{GOAL:.0f}", "yes" if row["seconds"] <= GOAL else "no",
            f"{row['one_by_one']:.1f}", f"{row['one_by_one'] / row['seconds']:.2f}",
            f"{row['loss_difference']:.0e}", f"{row['accuracy_difference']:.2f}",
        ]
        for name, row in record["networks"].items()
    ]  # fmt: skip
    print_table("Sweep", _HEADER, rows)
    publish(NAME, record, markdown_table(_HEADER, rows), options.output, "speed.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
