"""From a trained FC5 to a certified threshold interval of width 0.005, beside a spectral density by PyHessian.

    make run CONFIG=config/fashion_mnist.yaml
    python -m benchmarks.end_to_end [--results results/fashion_mnist] [--output DIRECTORY]

The same network, samples and process; PyHessian takes 128 Lanczos steps (its density has no interval at all).
"""

from __future__ import annotations

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

from .peers import prepare, pyhessian_operator
from .reporting import arguments_of, markdown_table, publish, timed

SAMPLES = 10_000
WIDTH = 0.005
STEPS = 254


def threshold(model: nn.Module, data: tuple[Tensor, Tensor], epsilon: float, reorthogonalize: bool) -> dict[str, Any]:
    """The interval, and how many products it took."""
    options = {"epsilon": epsilon, "steps": STEPS, "tolerance": WIDTH, "reorthogonalize": reorthogonalize}
    prediction = predict_threshold(model, functional.cross_entropy, data, **options)
    products = prediction.steps * prediction.probes
    return {"lower": prediction.lower, "upper": prediction.upper, "products": products}


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
    seconds, result = timed(work)
    result["seconds"] = seconds
    print(result, flush=True)
    return result


def table(ways: dict[str, dict[str, Any]], rival: str) -> list[dict[str, Any]]:
    """The rows for people; seconds are also over those of ``rival``."""
    rows = []
    for way, row in ways.items():
        certified = "lower" in row
        rows.append(
            {
                "way": way,
                "interval": f"[{row['lower']:.4f}, {row['upper']:.4f}]" if certified else "none",
                "width": f"{row['upper'] - row['lower']:.4f}" if certified else "-",
                "products": row["products"],
                "seconds": f"{row['seconds']:.0f}",
                "/ PyHessian": f"{row['seconds'] / ways[rival]['seconds']:.2f}",
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = arguments_of("end_to_end", __doc__)
    parser.add_argument("--results", type=Path, default=Path("results/fashion_mnist"), help="results of the workflow")
    parser.add_argument("--steps", type=int, default=128, help="of PyHessian")
    options = parser.parse_args(arguments)
    (unit,) = options.results.glob("runs/*/seed0")
    (file,) = options.results.glob("data/*.pt")
    epsilon = json.loads((unit / "dense.json").read_text())["batch_std"]
    split = DeviceSplit.from_data(datasets.load(file), "train", torch.device("cpu"))
    data = split.subset(SAMPLES, 0).as_tensors()

    def network() -> nn.Module:
        return load_network(unit / "network.pt")

    rival = f"PyHessian density, {options.steps} steps"
    ways = {
        "gwprune": reported(lambda: threshold(network(), data, epsilon, True)),
        rival: reported(lambda: pyhessian_density(network(), data, options.steps)),
        "gwprune, no reorthogonalisation": reported(lambda: threshold(network(), data, epsilon, False)),
    }
    record = {"epsilon": epsilon, "samples": SAMPLES, "ways": ways}
    publish("end_to_end", record, markdown_table(table(ways, rival)), options.output, "speed.md")


if __name__ == "__main__":
    main()
