"""Methods that choose how much each layer keeps: ratios against their closed forms, and SynFlow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from gwprune import models
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import Ranking, Subject, mask, rank, removed_count
from gwprune.pruning import synaptic_flow as synaptic_flow_module
from gwprune.pruning.synaptic_flow import synaptic_flow

SPARSITIES = (0.05, 0.3, 0.5, 0.8, 0.9, 0.95, 0.99)


def lenet(seed: int = 0) -> PrunableSet:
    torch.manual_seed(seed)
    return PrunableSet(models.build("lenet5", (1, 12, 12), 10, channels=(6, 16)))


def fc(hidden: tuple = (50, 40, 30), seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return models.build("fc", (1, 6, 6), 10, hidden=list(hidden))


def layer_counts(kept: torch.Tensor, prunable: PrunableSet) -> np.ndarray:
    return np.array([int(part.sum()) for part in kept.split(prunable.sizes)])


def water_filled(sizes: list[int], shares: list[float], total: float) -> np.ndarray:
    """``min(size, c * share)`` with the c for which they add up to ``total``, by bisection."""
    low, high = 0.0, max(size / share for size, share in zip(sizes, shares, strict=True))
    for _ in range(200):
        middle = (low + high) / 2
        if np.minimum(sizes, middle * np.array(shares)).sum() < total:
            low = middle
        else:
            high = middle
    return np.minimum(sizes, high * np.array(shares))


# --- random with ratios -------------------------------------------------------------------------------------


def test_erk_by_hand():
    """Layers of 2 x 8 and 2 x 2: shares 10 and 4, so 7 of 20 weights are 5 and 2."""
    prunable = PrunableSet(nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 2)))
    ranking = rank("random_erk", prunable, 0)
    assert layer_counts(ranking.kept(13), prunable).tolist() == [5, 2]
    # 2 of 20 are 1.43 and 0.57, rounded to the nearest.
    assert layer_counts(ranking.kept(18), prunable).tolist() == [1, 1]
    # From c = 1 on the second layer is full, and the first takes the rest.
    assert layer_counts(ranking.kept(6), prunable).tolist() == [10, 4]
    assert layer_counts(ranking.kept(3), prunable).tolist() == [13, 4]


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_erk_has_the_densities_of_its_formula(sparsity):
    prunable = lenet()
    shares = [float(sum(shape)) for shape in prunable.shapes]
    kept = rank("random_erk", prunable, 0).mask(sparsity)
    expected = water_filled(prunable.sizes, shares, prunable.dimension - removed_count(sparsity, prunable.dimension))
    assert np.abs(layer_counts(kept, prunable) - expected).max() <= 1
    if sparsity == 0.3:
        assert (expected == prunable.sizes).any()


def test_erk_counts_the_inputs_of_a_group_and_every_side_of_a_kernel():
    prunable = PrunableSet(nn.Sequential(nn.Conv1d(8, 16, 3, groups=4), nn.Conv3d(16, 4, 2)))
    assert [tuple(shape) for shape in prunable.shapes] == [(16, 2, 3), (4, 16, 2, 2, 2)]
    kept = rank("random_erk", prunable, 0).kept(prunable.dimension - 47)
    assert layer_counts(kept, prunable).tolist() == [21, 26]


@pytest.mark.parametrize("network", [lenet, lambda: PrunableSet(fc())])
def test_random_matched_has_the_layer_counts_of_magnitude_at_every_count(network):
    prunable = network()
    with torch.no_grad():
        prunable.parameters[1].mul_(3)
    magnitude, matched = rank("magnitude", prunable, 0), rank("random_matched", prunable, 0)
    for removed in range(0, prunable.dimension + 1, 97):
        expected = layer_counts(magnitude.kept(removed), prunable)
        assert layer_counts(matched.kept(removed), prunable).tolist() == expected.tolist()
    # Within a layer it is another choice: about as many weights in common as by chance.
    both = magnitude.mask(0.5) & matched.mask(0.5)
    counts, sizes = layer_counts(magnitude.mask(0.5), prunable), np.array(prunable.sizes)
    deviation = np.sqrt(counts**2 * (sizes - counts) ** 2 / sizes**2 / (sizes - 1))
    assert (np.abs(layer_counts(both, prunable) - counts**2 / sizes) <= 5 * deviation + 1e-9).all()


@pytest.mark.parametrize("method", ["random_erk", "random_matched", "smart_ratio"])
def test_which_weights_of_a_layer_are_kept_is_random_and_seeded(method):
    prunable = lenet()
    kept = [rank(method, prunable, seed).mask(0.5) for seed in range(3)]
    assert not torch.equal(kept[0], kept[1])
    counts = [layer_counts(one, prunable).tolist() for one in kept]
    assert counts[0] == counts[1] == counts[2]
    share = np.array(counts[0]) / prunable.sizes
    overlap, chance = layer_counts(kept[0] & kept[1], prunable), share * counts[0]
    deviation = np.sqrt(np.array(prunable.sizes)) * share * (1 - share)
    assert (np.abs(overlap - chance) <= 5 * deviation + 1).all()


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_smart_ratio_has_the_densities_of_its_formula(sparsity):
    prunable = lenet()
    depths = np.arange(len(prunable.sizes), 1, -1)
    *sizes, last = prunable.sizes
    total = prunable.dimension - removed_count(sparsity, prunable.dimension)
    fixed = min(max(round(0.3 * last), total - sum(sizes)), total)
    kept = layer_counts(rank("smart_ratio", prunable, 0).mask(sparsity), prunable)
    assert kept[-1] == fixed
    expected = water_filled(sizes, np.array(sizes) * (depths**2 + depths), total - fixed)
    assert np.abs(kept[:-1] - expected).max() <= 1


def test_smart_ratio_by_hand():
    """Layers of 10, 10 and 20 with ratios 12 : 6 and 0.3 of the last: 15 of 40 are 6, 3 and 6."""
    model = nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 2), nn.Linear(2, 10))
    prunable = PrunableSet(model)
    ranking = rank("smart_ratio", prunable, 0)
    assert layer_counts(ranking.kept(25), prunable).tolist() == [6, 3, 6]
    assert layer_counts(ranking.kept(16), prunable).tolist() == [10, 8, 6]
    assert layer_counts(ranking.kept(12), prunable).tolist() == [10, 10, 8]
    assert layer_counts(ranking.kept(36), prunable).tolist() == [0, 0, 4]
    tenth = rank("smart_ratio", prunable, 0, options={"last_linear": 0.1})
    assert layer_counts(tenth.kept(29), prunable).tolist() == [6, 3, 2]


def test_a_last_convolution_follows_the_smart_ratios_of_the_others():
    """Ratios 6 : 2 for layers of 12 and 12 weights."""
    prunable = PrunableSet(nn.Sequential(nn.Conv2d(1, 12, 1), nn.Conv2d(12, 1, 1)))
    assert layer_counts(rank("smart_ratio", prunable, 0).kept(16), prunable).tolist() == [6, 2]


# --- synflow ------------------------------------------------------------------------------------------------


def everything(prunable: PrunableSet) -> torch.Tensor:
    return torch.ones(prunable.dimension, dtype=torch.bool)


def test_synaptic_flow_by_hand():
    """R = |c| (|a| + |b|) = 4 * 3: the two weights of the first layer score 8 and 4, the last 12."""
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1))
    prunable = PrunableSet(model)
    prunable.assign(torch.tensor([2.0, -1.0, -4.0]))
    subject = Subject(prunable, 0, model=model, input_shape=(2,))
    assert synaptic_flow(subject, everything(prunable)).tolist() == [8, 4, 12]
    assert synaptic_flow(subject, torch.tensor([True, False, True])).tolist() == [8, 0, 8]
    assert mask("synflow", prunable, 0, 0.3, model=model, input_shape=(2,)).tolist() == [True, False, True]


@pytest.mark.parametrize("name", ["fc", "lenet5", "vgg11"])
def test_synaptic_flow_is_the_same_through_every_layer(name):
    torch.manual_seed(0)
    options = {"fc": {"hidden": [20] * 6, "batch_norm": True}, "lenet5": {}, "vgg11": {}}[name]
    shape = (3, 32, 32) if name == "vgg11" else (1, 12, 12)
    model = models.build(name, shape, 10, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1)  # biases are left out, the scales of a normalisation are not
    prunable = PrunableSet(model)
    kept = torch.rand(prunable.dimension, generator=torch.Generator().manual_seed(1)) < 0.7
    flow = synaptic_flow(Subject(prunable, 0, model=model, input_shape=shape), kept)
    layers = torch.stack([part.sum() for part in flow.split(prunable.sizes)])
    assert float(layers[0]) > 0
    torch.testing.assert_close(layers, layers[:1].expand_as(layers), rtol=1e-10, atol=0)
    assert bool((flow[~kept] == 0).all())


def test_synaptic_flow_does_not_overflow_where_single_precision_would():
    model = fc((20,) * 5)
    prunable = PrunableSet(model)
    prunable.assign(prunable.flatten() * 1e10)
    flow = synaptic_flow(Subject(prunable, 0, model=model, input_shape=(1, 6, 6)), everything(prunable))
    assert float(flow.max()) > torch.finfo(torch.float32).max
    assert bool(torch.isfinite(flow).all())


def test_synflow_empties_no_layer_up_to_the_highest_compression():
    model = fc((50, 40, 30))
    prunable = PrunableSet(model)
    given = {"model": model, "input_shape": (1, 6, 6)}
    for kept in (200, 50, 10, 4):
        sparsity = math.floor(1e6 * (1 - kept / prunable.dimension)) / 1e6
        found = mask("synflow", prunable, 0, sparsity, **given)
        counts = layer_counts(found, prunable)
        assert counts.sum() == kept
        assert counts.min() >= 1
    # One round of the same saliency does empty a layer: the rounds are what prevents it.
    once = mask("synflow", prunable, 0, 1 - 10 / prunable.dimension, **given, options={"rounds": 1})
    assert layer_counts(once, prunable).min() == 0


def test_synflow_in_one_round_takes_the_lowest_saliency():
    model = fc()
    prunable = PrunableSet(model)
    flow = synaptic_flow(Subject(prunable, 0, model=model, input_shape=(1, 6, 6)), everything(prunable))
    found = mask("synflow", prunable, 0, 0.6, model=model, input_shape=(1, 6, 6), options={"rounds": 1})
    assert torch.equal(found, Ranking.of_scores(flow).mask(0.6))


def test_a_weight_that_synflow_has_removed_stays_removed(monkeypatch):
    """Dead ends have no saliency either: they must not change places with weights that are gone."""
    model, seen = fc((5, 5, 5)), []
    prunable = PrunableSet(model)

    def watched(subject: Subject, kept: torch.Tensor) -> torch.Tensor:
        seen.append(kept)
        return synaptic_flow(subject, kept)

    monkeypatch.setattr(synaptic_flow_module, "synaptic_flow", watched)
    seen.append(mask("synflow", prunable, 0, 0.99, model=model, input_shape=(1, 6, 6)))
    assert len(seen) == 101
    assert not any(bool((later & ~earlier).any()) for earlier, later in zip(seen, seen[1:], strict=False))


def test_synflow_looks_at_no_data_no_label_and_no_sign():
    model = fc()
    prunable = PrunableSet(model)
    expected = mask("synflow", prunable, 0, 0.9, model=model, input_shape=(1, 6, 6))
    for inputs in (torch.zeros(3, 1, 6, 6), torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))):
        assert torch.equal(mask("synflow", prunable, 1, 0.9, model=model, data=(inputs, None)), expected)
    prunable.assign(-prunable.flatten())
    assert torch.equal(mask("synflow", prunable, 0, 0.9, model=model, input_shape=(1, 6, 6)), expected)
