"""The work of the rules on a CUDA device: a pretended one, on which no tensor may meet one of the CPU; and a real one.

`make test-gpu` runs those of the real one, which are skipped where there is none.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.nn import functional

from gwprune.curvature.operator import CurvatureOperator
from gwprune.datasets import DeviceSplit
from gwprune.network.losses import BatchLoss
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import METHODS, rank
from gwprune.spectral.lanczos import iterate, rademacher
from tests.unit.helpers_device import CUDA, OnCuda, pretended_cuda

# Rule -> wildcards and settings of a job, and how far the numbers of a real device may be from those of the CPU,
# relative to the larger of 1 and the number. Training gathers the rounding errors of each step.
JOBS: dict[str, tuple[dict[str, str], dict[str, Any], float]] = {
    "train": ({}, {}, 0.05),
    "snapshot": ({"epoch": "1"}, {}, 0.05),
    "spectrum": ({"operator": "hessian", "probe": "0"}, {}, 1e-3),
    "quadratic": ({}, {}, 5e-3),
    "statistical_dimension": ({"operator": "ggn"}, {"cone_steps": 3}, 5e-3),
    "rank": ({"method": "taylor"}, {}, 1e-3),
    "mask": ({"method": "synflow", "sparsity": "500000"}, {}, 1e-3),
    "sweep": ({"method": "magnitude"}, {}, 5e-3),
    "finetune": ({"method": "lamp", "chunk": "500000"}, {}, 0.05),
    "level": ({"method": "imp", "node": "500000-01-08cd1c"}, {}, 0.05),
    "measure": ({"method": "gmp"}, {}, 5e-3),
}


def content(path: Path) -> dict[str, np.ndarray]:
    """Name -> numbers of a file, without times; rows of a table by their texts and sparsity."""
    if path.suffix == ".parquet":
        found = {}
        for row in pq.read_table(path).to_pylist():
            row.pop("seconds", None)
            key = " ".join(str(value) for name, value in row.items() if isinstance(value, str) or name == "sparsity")
            number = len([name for name in found if name.startswith(f"{key} #")])
            found[f"{key} #{number}"] = np.array(
                [float("nan") if v is None else v for v in row.values() if not isinstance(v, str)], float
            )
        return found
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name] for name in file.files if file[name].dtype.kind in "fiub"}
    values = (
        json.loads(path.read_text())
        if path.suffix == ".json"
        else torch.load(path, map_location="cpu", weights_only=False)
    )
    return {name: np.asarray(value, float) for name, value in leaves(values)}


def leaves(values: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(values, dict):
        return [leaf for key, value in values.items() for leaf in leaves(value, f"{name}.{key}")]
    return [(name, values)] if isinstance(values, int | float | torch.Tensor) else []


def done(run, rule: str, device: str, directory: Path) -> dict[str, dict[str, np.ndarray]]:
    """Do a job on a device; output -> what it wrote."""
    wildcards, settings, _ = JOBS[rule]
    files = run.outputs(rule, run.at(**wildcards))
    outputs = {name: str(directory / device / Path(file).name) for name, file in files.items()}
    run.do(rule, replace(run.job, device=device), outputs=outputs, settings=settings, **wildcards)
    return {name: content(Path(file)) for name, file in outputs.items()}


@pytest.mark.filterwarnings("ignore:TF32 is on")
@pytest.mark.parametrize("rule", JOBS)
def test_a_job_on_the_pretended_device_mixes_no_devices_and_writes_the_same_numbers(run, rule, tmp_path, monkeypatch):
    expected = done(run, rule, "cpu", tmp_path)
    OnCuda.operations = 0
    with pretended_cuda(monkeypatch):
        found = done(run, rule, "cuda", tmp_path)
    assert OnCuda.operations > 10
    assert found.keys() == expected.keys()
    for output, values in expected.items():
        assert found[output].keys() == values.keys() != set()
        for name, numbers in values.items():
            np.testing.assert_array_equal(found[output][name], numbers, err_msg=f"{output}: {name}")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore:TF32 is on")
@pytest.mark.parametrize("rule", JOBS)
def test_a_job_on_a_cuda_device_writes_what_it_writes_on_the_cpu_within_its_tolerance(run, rule, tmp_path):
    expected, found = (done(run, rule, device, tmp_path) for device in ("cpu", "cuda"))
    for output, values in expected.items():
        # A search may have looked at other sparsities.
        common = values.keys() & found[output].keys()
        assert 2 * len(common) > len(values)
        for name in common:
            numbers = values[name]
            difference = np.abs(found[output][name] - numbers) / np.maximum(1, np.abs(numbers))
            # Of weights and ranks, few may differ by more: those that stand close to one another.
            share = 0.01 if numbers.size > 100 else 0
            assert np.mean(np.nan_to_num(difference) > JOBS[rule][2]) <= share, (output, name)


# --- the pretence itself ------------------------------------------------------------------------------------


def test_tensors_of_two_devices_do_not_meet(monkeypatch):
    here, weights = torch.ones(3), nn.Linear(3, 2)
    with pretended_cuda(monkeypatch) as device:
        there = here.to("cuda")
        assert there.device == device == CUDA
        assert there.is_cuda
        assert (
            torch.zeros_like(there).device == there.new_zeros(2).device == torch.zeros(2, device="cuda").device == CUDA
        )
        assert there.cpu().device.type == there.sum().cpu().device.type == "cpu"
        for meet in (lambda: here + there, lambda: weights(there), lambda: torch.cat([here, there]), there.numpy):
            with pytest.raises((RuntimeError, TypeError), match="same device|can't convert"):
                meet()
        assert (there + torch.tensor(2.0)).cpu().tolist() == [3, 3, 3]  # a number may come from anywhere, an index too
        first = torch.tensor([0, 2])
        assert there[first].device == CUDA
        with pytest.raises(RuntimeError, match="same device"):
            there[first] = here[:2]
        with pytest.raises(RuntimeError, match="same device"):
            here[first.to("cuda")]


def test_gradients_stay_on_the_device(monkeypatch):
    inputs, labels = torch.randn(5, 3), torch.arange(5) % 2
    layer = nn.Linear(3, 2)
    expected = torch.autograd.grad(functional.cross_entropy(layer(inputs), labels), layer.weight)[0]
    with pretended_cuda(monkeypatch):
        layer.to("cuda")
        functional.cross_entropy(layer(inputs.to("cuda")), labels.to("cuda")).backward()
        assert layer.weight.grad.device == CUDA
        found = layer.weight.grad.cpu()
    assert torch.equal(found, expected)


# --- what the jobs above do not reach -----------------------------------------------------------------------


def small(device: str) -> tuple[nn.Module, DeviceSplit]:
    """An untrained convolutional network and ten images."""
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 255, (10, 1, 8, 8), dtype=torch.uint8, generator=draw)
    # Neither pooling nor batch norm: their second derivatives and vmap make tensors below Python, where nothing is
    # pretended.
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3))
    split = DeviceSplit(images, torch.arange(10) % 3, [0.5], [0.25], device)
    return model.eval().to(device), split


RANKED = [name for name, method in METHODS.items() if method.when != "iterative" and not method.depends_on_sparsity]


@pytest.mark.filterwarnings("ignore:TF32 is on")
@pytest.mark.parametrize("method", RANKED)
def test_every_method_ranks_on_the_device_as_on_the_cpu(method, monkeypatch):
    def ranks(device: str) -> np.ndarray:
        model, split = small(device)
        given = {"model": model, "data": split.as_tensors(), "input_shape": (1, 8, 8)}
        return rank(method, PrunableSet(model), 0, **given).ranks.cpu().numpy()

    expected = ranks("cpu")
    with pretended_cuda(monkeypatch):
        found = ranks("cuda")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("augmentation", ["flip", "crop_flip"])
def test_images_are_augmented_on_the_device_as_on_the_cpu(augmentation, monkeypatch):
    def batches(device: str) -> list[torch.Tensor]:
        _, split = small(device)
        return [inputs for inputs, _ in split.epoch(4, torch.Generator().manual_seed(3), augmentation)]

    expected = batches("cpu")
    with pretended_cuda(monkeypatch):
        found = batches("cuda")
        assert {batch.device for batch in found} == {CUDA}
        found = [batch.cpu() for batch in found]
    assert all(map(torch.equal, found, expected))


@pytest.mark.filterwarnings("ignore:TF32 is on")
@pytest.mark.parametrize("storage", ["device", "host", "disk"])
def test_a_lanczos_basis_may_lie_elsewhere_than_the_products(storage, monkeypatch):
    def coefficients(device: str) -> list[np.ndarray]:
        model, split = small(device)
        operator = CurvatureOperator(model, BatchLoss(functional.cross_entropy), split.as_tensors())
        starts = [rademacher(operator.shape[0], 0, probe).to(device) for probe in (0, 1)]
        *_, runs = iterate(operator, starts, 5, storage=storage)
        return [run.result().alpha for run in runs]

    expected = coefficients("cpu")
    with pretended_cuda(monkeypatch):
        found = coefficients("cuda")
    np.testing.assert_array_equal(found, expected)
