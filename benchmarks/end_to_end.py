"""From a trained FC5 to a certified threshold interval of width 0.005, beside a spectral density by PyHessian.

    make run CONFIG=config/fashion_mnist.yaml
    python -m benchmarks.end_to_end [--results results/fashion_mnist] [--output DIRECTORY]

The same network, samples and process; PyHessian takes 128 Lanczos steps (its density has no interval at all).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gwprune import datasets, predict_threshold
from gwprune.datasets import DeviceSplit
from gwprune.jobs.artifacts import load_network

from .contest import timed
from .peers import prepare, pyhessian_operator
from .reporting import environment, markdown_table, print_table, publish

NAME = "end_to_end"
SAMPLES = 10_000
WIDTH = 0.005
STEPS = 254
_HEADER = ("way", "interval", "width", "products", "seconds", "/ PyHessian")


def threshold(model: nn.Module, data: tuple[Tensor, Tensor], epsilon: float, reorthogonalize: bool) -> dict[str, Any]:
    """The interval, and how many products it took."""
    found = predict_threshold(
        model,
        functional.cross_entropy,
        data,
        epsilon=epsilon,
        steps=STEPS,
        tolerance=WIDTH,
        reorthogonalize=reorthogonalize,
    )
    return {"lower": found.lower, "upper": found.upper, "products": found.steps * found.probes}


def pyhessian_density(model: nn.Module, data: tuple[Tensor, Tensor], steps: int) -> dict[str, Any]:
    """PyHessian's stochastic Lanczos quadrature with one probe, on one batch: it then keeps the gradient's graph."""
    prepare(model)
    torch.eig = _eig
    nodes, _ = pyhessian_operator(model, functional.cross_entropy, data=data).density(iter=steps, n_v=1)
    return {"products": len(nodes[0])}


def _eig(matrix: Tensor, eigenvectors: bool = False) -> tuple[Tensor, Tensor]:
    """What PyHessian expects of ``torch.eig``, which PyTorch has removed, for its symmetric matrices."""
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


def reported(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` returns, with the seconds that it took."""
    seconds, found = timed(work)
    found["seconds"] = seconds
    print(found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results/fashion_mnist"), help="results of the workflow")
    parser.add_argument("--steps", type=int, default=128, help="of PyHessian")
    parser.add_argument("--output", type=Path, help="a directory instead of the repository's docs and benchmarks")
    arguments = parser.parse_args()
    (unit,) = arguments.results.glob("runs/*/seed0")
    (file,) = arguments.results.glob("data/*.pt")
    epsilon = json.loads((unit / "dense.json").read_text())["batch_std"]
    split = DeviceSplit.from_data(datasets.load(file), "train", torch.device("cpu"))
    data = split.subset(SAMPLES, 0).as_tensors()

    def network() -> nn.Module:
        return load_network(unit / "network.pt")

    found = {
        "gwprune": reported(lambda: threshold(network(), data, epsilon, True)),
        f"PyHessian density, {arguments.steps} steps": reported(
            lambda: pyhessian_density(network(), data, arguments.steps)
        ),
        "gwprune, no reorthogonalisation": reported(lambda: threshold(network(), data, epsilon, False)),
    }
    rival = next(row["seconds"] for way, row in found.items() if way.startswith("PyHessian"))
    rows = []
    for way, row in found.items():
        interval, width = "none", "-"
        if "lower" in row:
            interval, width = f"[{row['lower']:.4f}, {row['upper']:.4f}]", f"{row['upper'] - row['lower']:.4f}"
        rows.append([way, interval, width, row["products"], f"{row['seconds']:.0f}", f"{row['seconds'] / rival:.2f}"])
    print_table("End to end", _HEADER, rows)
    record = {"environment": environment(), "epsilon": epsilon, "samples": SAMPLES, "ways": found}
    publish(NAME, record, markdown_table(_HEADER, rows), arguments.output, "speed.md")


if __name__ == "__main__":
    main()
