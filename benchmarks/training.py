"""Training FC5 on FashionMNIST: where an epoch's time goes, and how long plain PyTorch loops take for the same epoch.

    python -m benchmarks.training [--repeats 7] [--output DIRECTORY]
    python -m benchmarks.training --quick --output /tmp/quick

All ways train the same network, by the same recipe, on the same images, in turns in one process. The plain loops have
no bookkeeping, no schedule and no masks, hold the images as normalised floats, and write the l1 term as most people do,
into the loss; `l1 in the gradient` stands for the fastest such loop.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset

from gwprune import datasets, models
from gwprune.datasets import DeviceSplit
from gwprune.datasets.mnist import DEBIAN_DIR
from gwprune.network.prunable import PrunableSet
from gwprune.training.train import Recipe, train

from .reporting import arguments_of, environment, markdown_table, publish

SHARE_GOAL, RATIO_GOAL = 0.8, 1.0
PRODUCTS = ("aten::mm", "aten::addmm")
RECIPE = Recipe(epochs=10_000, batch_size=128, lr=0.01, momentum=0.9, schedule="constant", l1=5e-5)

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]


def images(samples: int, quick: bool) -> tuple[DeviceSplit, str]:
    """FashionMNIST where Debian's package is installed, random images elsewhere: the time is the same."""
    if DEBIAN_DIR.exists() and not quick:
        split = DeviceSplit.from_data(datasets.prepare("fashion_mnist", DEBIAN_DIR), "train")
        return split.subset(samples, seed=0), "FashionMNIST"
    pixels = torch.randint(0, 256, (samples, 1, 28, 28), dtype=torch.uint8)
    return DeviceSplit(pixels, torch.randint(10, (samples,)), [0.5], [0.25]), "random images"


def plain_loop(model: nn.Module, batches: Batches, in_loss: bool) -> Callable[[], None]:
    """One epoch of a loop as people write it; the l1 term in the loss, or its subgradient in the gradient."""
    weights = PrunableSet(model).parameters
    optimizer = torch.optim.SGD(model.parameters(), lr=RECIPE.lr, momentum=RECIPE.momentum)

    def epoch() -> None:
        model.train()
        for inputs, labels in batches():
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs), labels)
            if in_loss:
                loss = loss + RECIPE.l1 * sum(weight.abs().sum() for weight in weights)
            loss.backward()
            if not in_loss:
                with torch.no_grad():
                    for weight in weights:
                        weight.grad.add_(weight.sign(), alpha=RECIPE.l1)
            optimizer.step()

    return epoch


def ways(split: DeviceSplit, network: Callable[[], nn.Module]) -> dict[str, Callable[[], None]]:
    """One epoch of each way, each with a network of its own."""
    inputs, labels = split.as_tensors()
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=RECIPE.batch_size, shuffle=True)

    def permuted() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(inputs))
        for chosen in order.split(RECIPE.batch_size):
            yield inputs[chosen], labels[chosen]

    ours, one, epochs, momentum = network(), split.subset(1, seed=0), [0], {}

    def gwprune() -> None:
        first, epochs[0] = epochs[0], epochs[0] + 1
        train(ours, split, one, RECIPE, 0, first_epoch=first, last_epoch=first + 1, momentum=momentum)

    return {
        "gwprune": gwprune,
        "DataLoader, l1 in the loss": plain_loop(network(), lambda: iter(loader), True),
        "DataLoader, l1 in the gradient": plain_loop(network(), lambda: iter(loader), False),
        "indexed tensor, l1 in the loss": plain_loop(network(), permuted, True),
        "indexed tensor, l1 in the gradient": plain_loop(network(), permuted, False),
    }


def shares(epoch: Callable[[], None]) -> dict[str, Any]:
    """Time of an epoch's operations by torch.profiler: the share of matrix products, and the largest others."""
    with profile(activities=[ProfilerActivity.CPU]) as events:
        epoch()
    times = {event.key: event.self_cpu_time_total for event in events.key_averages()}
    total = sum(times.values())
    largest = sorted((key for key in times if key not in PRODUCTS), key=times.get, reverse=True)[:6]
    products = sum(times.get(key, 0) for key in PRODUCTS)
    return {
        "products": products / total,
        "product_seconds": products / 1e6,
        "others": {key: times[key] / total for key in largest},
    }


def measure(split: DeviceSplit, network: Callable[[], nn.Module], repeats: int, threads: int) -> dict[str, Any]:
    """(seconds, processor seconds) of every way's epochs, in turns, and the middle of at most three profiles."""
    before, profiled = torch.get_num_threads(), min(3, repeats)
    torch.set_num_threads(threads)
    try:
        epochs = ways(split, network)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in epochs}
        for repeat in range(repeats + 1):
            for name, epoch in epochs.items():
                start = time.perf_counter(), time.process_time()
                epoch()
                end = time.perf_counter(), time.process_time()
                if repeat:  # the first turn warms up
                    seconds[name].append((end[0] - start[0], end[1] - start[1]))
        profiles = {
            name: sorted((shares(epoch) for _ in range(profiled)), key=lambda one: one["products"])[profiled // 2]
            for name, epoch in epochs.items()
        }
    finally:
        torch.set_num_threads(before)
    return {"seconds": seconds, "profiles": profiles, "load": os.getloadavg()}


def table(result: dict[str, Any]) -> list[dict[str, str]]:
    """Times and ratios of every way with one number of threads."""
    rows = []
    for name, turns in result["seconds"].items():
        # Each turn's ratio: what slows the machine for a while slows both.
        ratios = [(a / c, b / d) for (a, b), (c, d) in zip(result["seconds"]["gwprune"], turns, strict=True)]
        wall, processor = map(statistics.median, zip(*ratios, strict=True))
        seconds, processor_seconds = map(statistics.median, zip(*turns, strict=True))
        rows.append(
            {
                "way": name,
                "s": f"{seconds:.3f}",
                "processor s": f"{processor_seconds:.3f}",
                "gwprune / this": f"{wall:.2f}",
                "by processor s": f"{processor:.2f}",
                f"at most {RATIO_GOAL:g}": "" if name == "gwprune" else "yes" if wall <= RATIO_GOAL else "no",
                "in products": f"{result['profiles'][name]['products']:.1%}",
            }
        )
    return rows


def section(record: dict[str, Any], machine: dict[str, Any]) -> str:
    """Markdown for the docs: a table for each number of threads, and where gwprune's time goes."""
    repeats = len(next(iter(record["threads"].values()))["seconds"]["gwprune"])
    parts = [
        f"{machine['cpu']}, torch {machine['torch']}; {record['samples']:,} images ({record['data']}), {repeats} turns."
    ]
    for threads, result in record["threads"].items():
        own = result["profiles"]["gwprune"]
        others = ", ".join(f"`{key}` {value:.1%}" for key, value in own["others"].items())
        epoch = statistics.median(wall for wall, _ in result["seconds"]["gwprune"])
        parts += [
            f"{threads} thread{'s' if threads != '1' else ''}:",
            markdown_table(table(result)),
            f"Matrix products: {own['products']:.1%} of the time of gwprune's operations (goal {SHARE_GOAL:.0%}:"
            f" {'met' if own['products'] >= SHARE_GOAL else 'missed'}), {own['product_seconds']:.3f} s where an epoch"
            f" without the profiler takes {epoch:.3f} s; then {others}.",
        ]
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    parser = arguments_of("training", __doc__)
    parser.add_argument("--repeats", type=int, default=7, help="turns of every way")
    parser.add_argument("--samples", type=int, default=12_800, help="images of an epoch")
    parser.add_argument("--threads", type=int, nargs="+", help="default: one, and as many as torch takes")
    parser.add_argument("--quick", action="store_true", help="a tiny network on random images, to test the program")
    options = parser.parse_args(arguments)
    split, data = images(512 if options.quick else options.samples, options.quick)

    def network() -> nn.Module:
        torch.manual_seed(0)
        name, settings = ("fc", {"hidden": [32]}) if options.quick else ("fc5", {})
        return models.build(name, (1, 28, 28), 10, **settings)

    counts = options.threads or sorted({1, torch.get_num_threads()})
    threads = {str(count): measure(split, network, options.repeats, count) for count in counts}
    record = {"data": data, "samples": len(split), "threads": threads}
    publish("training", record, section(record, environment()), options.output, "speed.md")


if __name__ == "__main__":
    main()
