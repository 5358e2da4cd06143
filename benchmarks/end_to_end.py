"""From an l1-trained FC5 to its predicted threshold, beside a spectral density by PyHessian.

    python -m snakemake --cores 2 --configfile config/fashion_mnist.yaml --until train
    python -m benchmarks.end_to_end --rounds 0     what the estimate converges to: not timed, any machine
    python -m benchmarks.end_to_end --rounds 3     idle machine; goes on where it was interrupted

All get the same network, prunable weights, samples, device and threads; seconds are those of the whole call, with all
checks and the search for dead units. In a round the ways follow one another in one process; the tables give medians
of the rounds, and of the ratios of a round. PyHessian takes 128 Lanczos steps (its density has no interval at all) on
one batch of all samples, its faster way: it then keeps the gradient's graph.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gwprune import Prediction, datasets, predict_threshold
from gwprune.curvature.operator import CurvatureOperator
from gwprune.datasets import DeviceSplit
from gwprune.jobs.artifacts import load_network
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import rank
from gwprune.spectral.spectrum import Estimate, Spectrum
from gwprune.storage.checkpoints import digest

from .peers import prepare, pyhessian_operator
from .reporting import arguments_of, destination, environment, markdown_table, publish, timed

WIDTH = 0.005  # of the certified interval
SETTLED = 0.002  # of the estimate, about what it converges to
STEPS = 320  # at most
EVERY = 8  # steps from one look at the estimate to the next
RIVAL = "PyHessian density"
Data = tuple[Tensor, Tensor]


@contextmanager
def counted() -> Iterator[list[int]]:
    """Yields the numbers of columns of all products with an operator since; checks make theirs on a few samples."""
    products: list[int] = []
    multiply = CurvatureOperator.multiply

    def counting(operator: CurvatureOperator, columns: list[Tensor]) -> list[Tensor]:
        products.append(len(columns))
        return multiply(operator, columns)

    with mock.patch.object(CurvatureOperator, "multiply", counting):
        yield products


def threshold(model: nn.Module, data: Data, epsilon: float, **options: Any) -> Prediction:
    """One call, as a user makes it."""
    return predict_threshold(model, functional.cross_entropy, data, epsilon=epsilon, **options)


def cut(prediction: Prediction, norms: np.ndarray, steps: int) -> Estimate:
    """The threshold as it was after the first ``steps`` steps of a prediction's probe."""
    (probe,) = prediction._spectrum.probes
    earlier = Spectrum((replace(probe, jacobi=probe.jacobi.truncated(steps)),))
    return earlier.width_threshold(norms, prediction.epsilon)


def settled(estimates: dict[int, float], tolerance: float) -> int:
    """Steps after which the estimate stays within ``tolerance`` of the last one.

    Args:
        estimates: steps -> estimate.
        tolerance: in sparsity.
    """
    far = [steps for steps in estimates if abs(estimates[steps] - estimates[max(estimates)]) > tolerance]
    return min(steps for steps in estimates if steps > max(far, default=0))


def convergence(model: nn.Module, data: Data, epsilon: float, steps: int) -> dict[str, Any]:
    """How the estimate of one long run settles: nothing here is timed."""
    prunable = PrunableSet(model)
    norms = rank("magnitude", prunable, 0).pruned_norms(prunable.flatten())
    prediction = threshold(model, data, epsilon, steps=steps)
    estimates = {
        taken: float(cut(prediction, norms, taken).value) for taken in range(EVERY, prediction.steps + 1, EVERY)
    }
    return {
        "steps": prediction.steps,
        "estimate": prediction.threshold,
        "lower": prediction.lower,
        "upper": prediction.upper,
        "estimates": estimates,
        "settled": settled(estimates, SETTLED),
    }


def pyhessian_density(model: nn.Module, data: Data, steps: int) -> None:
    """PyHessian's stochastic Lanczos quadrature with one probe, on one batch."""
    prepare(model)
    torch.eig = _eig
    pyhessian_operator(model, functional.cross_entropy, data=data).density(iter=steps, n_v=1)


def _eig(matrix: Tensor, eigenvectors: bool = False) -> tuple[Tensor, Tensor]:
    """What PyHessian expects of ``torch.eig``, which PyTorch has removed, for its symmetric matrices."""
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


def one_round(network: Callable[[], nn.Module], data: Data, epsilon: float, steps: int, rival: int) -> dict[str, Any]:
    """Every way once: seconds, products with the operator, and what was found.

    Args:
        network: loads it anew.
        data: inputs and targets.
        epsilon: loss tolerance.
        steps: after which the estimate has settled.
        rival: steps of PyHessian.
    """

    def ours(**options: Any) -> dict[str, Any]:
        with counted() as products:
            seconds, found = timed(lambda: threshold(model, data, epsilon, **options))
        return {
            "seconds": seconds,
            "steps": found.steps,
            "products": sum(products),
            "estimate": found.threshold,
            "lower": found.lower,
            "upper": found.upper,
        }

    ways: dict[str, Any] = {}
    model = network()
    seconds, _ = timed(lambda: pyhessian_density(model, data, rival))
    ways[RIVAL] = {"seconds": seconds, "steps": rival, "products": rival}
    print(ways, flush=True)
    for name, options in {"estimate": {"steps": steps}, "interval": {"steps": STEPS, "tolerance": WIDTH}}.items():
        model = network()
        ways[name] = ours(**options)
        print(ways[name], flush=True)
    return {"environment": environment(), "ways": ways}


def table(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows for people: medians, and of the ratios within a round the median."""
    labels = {
        "estimate": f"gwprune, until the estimate is within {SETTLED} and stays",
        "interval": f"gwprune, until the interval is at most {WIDTH} wide",
        RIVAL: RIVAL,
    }
    rows = []
    for name, label in labels.items():
        own = [part["ways"][name] for part in rounds]
        ratio = median(part["ways"][name]["seconds"] / part["ways"][RIVAL]["seconds"] for part in rounds)
        found = own[-1]
        certified = "lower" in found
        rows.append(
            {
                "way": label,
                "estimate": f"{found['estimate']:.4f}" if certified else "-",
                "interval": f"[{found['lower']:.4f}, {found['upper']:.4f}]" if certified else "none",
                "width": f"{found['upper'] - found['lower']:.4f}" if certified else "-",
                "steps": found["steps"],
                "products": found["products"],
                "seconds": f"{median(part['seconds'] for part in own):.0f}",
                "/ PyHessian": f"{ratio:.2f}",
            }
        )
    return rows


def section(record: dict[str, Any]) -> str:
    """The generated part of docs/speed.md."""
    end, rounds = record["convergence"], record["rounds"]
    machine = rounds[-1]["environment"] if rounds else environment()
    return (
        f"l1 {record['l1']:g}, {record['samples']:,} samples, D = {record['dimension']:,}; {machine['cpu']},"
        f" {machine['threads']} threads, torch {machine['torch']}; rounds: {len(rounds)}. After {end['steps']} steps"
        f" the estimate is {end['estimate']:.4f} [{end['lower']:.4f}, {end['upper']:.4f}]; from {end['settled']} steps"
        f" on it stays within {SETTLED} of that.\n\n{markdown_table(table(rounds)) if rounds else ''}"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = arguments_of("end_to_end", __doc__)
    parser.add_argument("--results", type=Path, default=Path("results/fashion_mnist"), help="results of the workflow")
    parser.add_argument("--run", default="*", help="which of its runs, when there are several")
    parser.add_argument("--data", default="*", help="which of its prepared data sets, when there are several")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1, help="until there are so many (default: 1)")
    parser.add_argument("--longest", type=int, default=STEPS, help="steps that show what the estimate converges to")
    parser.add_argument("--steps", type=int, default=128, help="of PyHessian")
    options = parser.parse_args(arguments)
    (unit,) = options.results.glob(f"runs/{options.run}/seed0")
    (file,) = options.results.glob(f"data/{options.data}.pt")
    dense = json.loads((unit / "dense.json").read_text())
    split = DeviceSplit.from_data(datasets.load(file), "train", torch.device("cpu"))
    data = split.subset(options.samples, 0).as_tensors()

    def network() -> nn.Module:
        return load_network(unit / "network.pt")

    weights = PrunableSet(network()).flatten()
    asked = {
        "network": digest(weights),
        "dimension": len(weights),
        "l1": dense["l1"],
        "epsilon": dense["batch_std"],
        "samples": options.samples,
        "rival_steps": options.steps,
    }
    path = destination("end_to_end", ".json", options.output)
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if {key: record.get(key) for key in asked} != asked:
        record = {**asked, "convergence": convergence(network(), data, dense["batch_std"], options.longest)}
        record["rounds"] = []
        publish("end_to_end", record, section(record), options.output, "speed.md")
    while len(record["rounds"]) < options.rounds:
        steps = record["convergence"]["settled"]
        record["rounds"].append(one_round(network, data, dense["batch_std"], steps, options.steps))
        # After every round: an interrupted run goes on with the next one.
        publish("end_to_end", record, section(record), options.output, "speed.md")


if __name__ == "__main__":
    main()
