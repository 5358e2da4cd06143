"""Rankings and masks: exact counts, nested masks, and the methods that look at the weights alone."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gwprune import models
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import Ranking, keep_highest, rank, removed_count


def linear(*layers: list) -> nn.Sequential:
    """A stack of linear layers whose weights are given as nested lists."""
    modules = []
    for rows in layers:
        weight = torch.tensor(rows, dtype=torch.float32)
        module = nn.Linear(weight.shape[1], weight.shape[0])
        module.weight = nn.Parameter(weight)
        modules.append(module)
    return nn.Sequential(*modules)


def network(hidden=(12, 7), seed: int = 0) -> PrunableSet:
    torch.manual_seed(seed)
    return PrunableSet(models.build("fc", (1, 4, 4), 3, hidden=list(hidden)))


def removed(ranking: Ranking, count: int) -> list[int]:
    return (~ranking.kept(count)).nonzero().flatten().tolist()


# --- counts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sparsity", "dimension", "count"),
    [
        (0.07, 100, 7),  # 0.07 * 100 is 7.000000000000001 in binary
        (0.29, 100, 29),  # 0.29 * 100 is 28.999999999999996
        (0.57, 100, 57),
        (0.1, 10, 1),
        (0.1, 11, 2),
        (0.0, 5, 0),
        (1.0, 5, 5),
        (1e-06, 1_000_000, 1),
        (1e-06, 1_000_001, 2),
        (0.983, 1_595_000, 1_567_885),
        (0.5, 0, 0),
    ],
)
def test_the_number_of_removed_weights_is_exact(sparsity, dimension, count):
    assert removed_count(sparsity, dimension) == count


@given(st.integers(0, 1_000_000), st.integers(1, 200_000_000))
def test_a_sparsity_in_parts_per_million_is_taken_as_the_decimal_that_it_is(parts, dimension):
    expected = -(-parts * dimension // 1_000_000)
    assert removed_count(parts / 1_000_000, dimension) == expected


@given(st.floats(0, 1), st.integers(1, 10**8))
def test_the_number_of_removed_weights_is_the_ceiling_of_the_written_decimal(sparsity, dimension):
    assert removed_count(sparsity, dimension) == math.ceil(Fraction(Decimal(repr(sparsity))) * dimension)
    assert removed_count(np.float64(sparsity), dimension) == removed_count(sparsity, dimension)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10**6))
def test_a_higher_sparsity_never_removes_fewer(one, other, dimension):
    low, high = sorted((one, other))
    assert 0 <= removed_count(low, dimension) <= removed_count(high, dimension) <= dimension


@pytest.mark.parametrize("sparsity", [-0.001, 1.001, math.nan, math.inf])
def test_a_sparsity_outside_of_0_to_1_is_refused(sparsity):
    with pytest.raises(ValueError, match="sparsity must be in"):
        removed_count(sparsity, 10)


# --- rankings and masks -------------------------------------------------------------------------------------


@given(st.permutations(range(23)), st.integers(0, 1_000_000), st.integers(0, 1_000_000))
def test_masks_are_exact_and_nested(order, one, other):
    ranking = Ranking(torch.tensor(order))
    low, high = sorted((one, other))
    sparse, sparser = ranking.mask(low / 1e6), ranking.mask(high / 1e6)
    assert sparse.dtype == torch.bool
    assert int((~sparse).sum()) == -(-low * 23 // 1_000_000)
    assert int((~sparser).sum()) == -(-high * 23 // 1_000_000)
    assert not bool((sparser & ~sparse).any())


def test_a_mask_removes_the_lowest_ranks():
    ranking = Ranking(torch.tensor([2, 0, 3, 1]))
    assert [removed(ranking, count) for count in range(5)] == [[], [1], [1, 3], [0, 1, 3], [0, 1, 2, 3]]
    assert ranking.mask(0.5).tolist() == [True, False, True, False]
    assert ranking.dimension == 4


@pytest.mark.parametrize("ranks", [[0, 0, 2], [1, 2, 3], [0, 1, 3], [-1, 0, 1], [0, 1, 10**6], []])
def test_what_is_no_permutation_is_refused(ranks):
    with pytest.raises(ValueError, match="permutation"):
        Ranking(torch.tensor(ranks, dtype=torch.int32))


def test_pruned_norms_are_those_of_the_removed_vectors():
    prunable = network()
    weights = prunable.flatten()
    ranking = rank("random", prunable, 3)
    norms = ranking.pruned_norms(weights)
    assert norms.dtype == np.float64
    assert norms.shape == (prunable.dimension + 1,)
    for count in range(prunable.dimension + 1):
        direct = (weights.double() * ~ranking.kept(count)).norm()
        np.testing.assert_allclose(norms[count], float(direct), rtol=1e-12)
    assert norms[0] == 0
    assert (np.diff(norms) >= 0).all()


def test_magnitude_removes_the_smallest_norm_at_every_count():
    prunable = network()
    weights = prunable.flatten()
    smallest = rank("magnitude", prunable, 0).pruned_norms(weights)
    for other in ("magnitude_layerwise", "random"):
        norms = rank(other, prunable, 0).pruned_norms(weights)
        assert (smallest <= norms * (1 + 1e-12)).all()
        assert (smallest < norms * 0.999).any()


# --- masks from scores --------------------------------------------------------------------------------------


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.data())
def test_the_highest_scores_are_kept_as_a_ranking_would(values, data):
    scores = torch.tensor(values, dtype=torch.float64)
    removed = data.draw(st.integers(0, len(values)))
    assert torch.equal(keep_highest(scores, removed), Ranking.of_scores(scores).kept(removed))


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30), st.data())
def test_what_is_removed_stays_removed_whatever_its_score(values, data):
    scores = torch.tensor([float(score) for score, _ in values])
    within = torch.tensor([kept for _, kept in values])
    removed = data.draw(st.integers(int((~within).sum()), len(values)))
    kept = keep_highest(scores, removed, within=within)
    assert int((~kept).sum()) == removed
    assert not bool((kept & ~within).any())
    if bool(kept.any()) and bool((within & ~kept).any()):
        assert scores[kept].min() >= scores[within & ~kept].max()


def test_a_mask_cannot_give_weights_back():
    within = torch.tensor([True, False, False])
    with pytest.raises(ValueError, match="2 weights are removed already, more than the 1"):
        keep_highest(torch.ones(3), 1, within=within)


def test_a_mask_can_be_kept_as_a_ranking():
    kept = torch.tensor([True, False, True, True, False])
    assert torch.equal(Ranking.of_mask(kept).kept(2), kept)


# --- methods of the weights alone ---------------------------------------------------------------------------


def test_magnitude_is_global_over_layers():
    prunable = PrunableSet(linear([[0.5, -0.1], [3.0, -0.7]], [[-0.2, 0.6]]))
    ranking = rank("magnitude", prunable, 0)
    assert ranking.ranks.tolist() == [2, 0, 5, 4, 1, 3]
    assert removed(ranking, 3) == [0, 1, 4]


def test_layerwise_takes_the_smallest_of_each_layer():
    prunable = PrunableSet(linear([[5.0, -4.0], [7.0, -6.0]], [[0.2, 0.1], [0.4, -0.3]]))
    ranking = rank("magnitude_layerwise", prunable, 0)
    assert removed(ranking, 2) == [1, 5]
    assert removed(ranking, 4) == [0, 1, 4, 5]
    assert removed(rank("magnitude", prunable, 0), 4) == [4, 5, 6, 7]


@pytest.mark.parametrize("method", ["magnitude", "magnitude_layerwise"])
def test_equal_scores_go_by_index(method):
    prunable = PrunableSet(linear([[1.0, -1.0, 0.5], [-1.0, 1.0, -0.5]]))
    assert rank(method, prunable, 0).ranks.tolist() == [2, 3, 0, 4, 5, 1]


@pytest.mark.parametrize("method", ["magnitude", "magnitude_layerwise"])
def test_thousands_of_equal_scores_go_by_index(method):
    weights = torch.randint(-2, 3, (40, 500), generator=torch.Generator().manual_seed(0))
    ranking = rank(method, PrunableSet(linear(weights.tolist())), 0)
    sizes = weights.abs().flatten().tolist()
    expected = sorted(range(len(sizes)), key=lambda index: (sizes[index], index))
    assert torch.argsort(ranking.ranks).tolist() == expected


def test_equal_places_of_two_layers_go_by_index():
    prunable = PrunableSet(linear([[9.0, 8.0]], [[0.1], [0.2]]))
    assert rank("magnitude_layerwise", prunable, 0).ranks.tolist() == [2, 0, 1, 3]


def largest_miss(prunable: PrunableSet) -> float:
    """How many weights the worst layer is off its share, over all counts."""
    ranking = rank("magnitude_layerwise", prunable, 0)
    order = torch.argsort(ranking.ranks)
    layer = torch.repeat_interleave(torch.arange(len(prunable.sizes)), torch.tensor(prunable.sizes))[order]
    sizes = torch.tensor(prunable.sizes, dtype=torch.float64)
    lost = torch.nn.functional.one_hot(layer, len(sizes)).cumsum(0).double()
    shares = torch.arange(1, prunable.dimension + 1).double()[:, None] * sizes / prunable.dimension
    return float((lost - shares).abs().max())


@pytest.mark.parametrize("hidden", [(), (6,), (12, 7), (50, 20), (30, 30)])
def test_layerwise_gives_each_layer_its_share_within_one_weight(hidden):
    assert largest_miss(network(hidden)) <= 1


def test_layerwise_gives_each_layer_of_a_deep_network_its_share_within_two_weights():
    """Equal layers reach the same place at once, so a large one beside them is ahead or behind by their roundings."""
    prunable = PrunableSet(models.build("fc", (1, 8, 8), 10, hidden=[10] * 8))
    assert largest_miss(prunable) <= 2


def test_random_is_seeded_and_does_not_look_at_the_weights():
    first, other = network(seed=0), network(seed=1)
    assert not torch.equal(first.flatten(), other.flatten())
    assert torch.equal(rank("random", first, 7).ranks, rank("random", other, 7).ranks)
    assert not torch.equal(rank("random", first, 7).ranks, rank("random", first, 8).ranks)


def test_random_is_uniform_over_layers():
    prunable = network((60, 40))
    first = prunable.sizes[0]
    kept = [int((~rank("random", prunable, seed).mask(0.5))[:first].sum()) for seed in range(40)]
    # Hypergeometric: half of the first layer, with a known deviation.
    deviation = math.sqrt(first * (1 - first / prunable.dimension) / 4 / 40)
    assert abs(np.mean(kept) - first / 2) < 5 * deviation


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(value):
    prunable = PrunableSet(linear([[0.5, value, 1.0]]))
    with pytest.raises(FloatingPointError, match="magnitude"):
        rank("magnitude", prunable, 0)
