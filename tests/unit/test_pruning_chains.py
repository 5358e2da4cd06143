"""Schedules, controls and the mask search that chains of jobs use."""

from __future__ import annotations

import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gwprune import models
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import (
    GemSearch,
    Subject,
    gem_epoch,
    gmp_sparsity,
    imp_sparsities,
    keep_highest,
    layerwise_shuffle,
    rank,
    reinitialise,
    removed_count,
    start_gem_search,
)

from .helpers_networks import normal

# --- schedules ----------------------------------------------------------------------------------------------


def test_imp_levels_by_hand():
    assert imp_sparsities(0.5) == [0.2, 0.36, 0.488, 0.5]
    assert imp_sparsities(0.1) == [0.1]
    assert imp_sparsities(0) == []
    assert imp_sparsities(0.75, rate=0.5) == [0.5, 0.75]


@pytest.mark.parametrize("level", range(1, 15))
def test_a_target_that_is_a_level_is_the_last_and_not_doubled(level):
    target = float(f"{1 - 0.8**level:.12g}") if level > 4 else [0.2, 0.36, 0.488, 0.5904][level - 1]
    levels = imp_sparsities(target)
    assert levels[-1] == target
    if level <= 4:
        assert len(levels) == level


@given(st.integers(1, 999_999), st.integers(1, 999))
def test_imp_levels_rise_to_the_target_by_the_rate(parts, permille):
    target, rate = parts / 1_000_000, max(permille, 50) / 1000
    levels = imp_sparsities(target, rate)
    assert levels[-1] == target
    assert levels == sorted(set(levels))
    for number, level in enumerate(levels[:-1], start=1):
        assert math.isclose(1 - level, (1 - rate) ** number, rel_tol=1e-6)
    assert 1 - (1 - rate) ** len(levels) >= target * (1 - 1e-12)


@pytest.mark.parametrize(("target", "rate"), [(1.0, 0.2), (-0.1, 0.2), (math.nan, 0.2), (0.5, 0.0), (0.5, 1.0)])
def test_imp_levels_without_an_end_are_refused(target, rate):
    with pytest.raises(ValueError, match="imp needs"):
        imp_sparsities(target, rate)


def test_the_cubic_schedule_by_hand():
    """From 0 to 0.8 over steps 100 to 200: half-way 0.8 (1 - 1/8) = 0.7."""
    assert gmp_sparsity(0, 100, 200, 0.8) == 0
    assert gmp_sparsity(100, 100, 200, 0.8) == 0
    assert math.isclose(gmp_sparsity(150, 100, 200, 0.8), 0.7, rel_tol=1e-12)
    assert math.isclose(gmp_sparsity(150, 100, 200, 0.8, initial=0.4), 0.75, rel_tol=1e-12)
    assert gmp_sparsity(200, 100, 200, 0.8) == 0.8
    assert gmp_sparsity(10**9, 100, 200, 0.8) == 0.8


def test_gradual_pruning_changes_only_every_so_many_steps_and_at_the_end():
    found = [gmp_sparsity(step, 10, 45, 0.9, every=10) for step in range(60)]
    changes = [step for step in range(1, 60) if found[step] != found[step - 1]]
    assert changes == [20, 30, 40, 45]
    assert found == sorted(found)
    assert found[20] == gmp_sparsity(20, 10, 45, 0.9)


@pytest.mark.parametrize(
    "change", [{"end": 100}, {"every": 0}, {"target": 1.1}, {"initial": 0.9}, {"initial": -0.1}, {"target": math.nan}]
)
def test_a_gradual_schedule_without_a_meaning_is_refused(change):
    with pytest.raises(ValueError, match="gmp needs"):
        gmp_sparsity(**{"step": 0, "start": 100, "end": 200, "target": 0.8, **change})


def test_levels_of_imp_make_nested_exact_masks():
    torch.manual_seed(0)
    prunable = PrunableSet(models.build("fc", (1, 4, 4), 3, hidden=[12]))
    kept = torch.ones(prunable.dimension, dtype=torch.bool)
    for number, level in enumerate(imp_sparsities(0.9)):
        prunable.assign(normal(prunable.dimension, seed=number, dtype=torch.float32))  # as after another training
        tighter = keep_highest(prunable.flatten().abs(), removed_count(level, prunable.dimension), within=kept)
        assert not bool((tighter & ~kept).any())
        assert int((~tighter).sum()) == removed_count(level, prunable.dimension)
        kept = tighter


# --- controls -----------------------------------------------------------------------------------------------


def test_a_shuffle_keeps_the_count_of_every_layer_and_changes_the_weights():
    torch.manual_seed(0)
    prunable = PrunableSet(models.build("lenet5", (1, 12, 12), 3))
    mask = rank("magnitude_layerwise", prunable, 0).mask(0.8)
    shuffled = layerwise_shuffle(mask, prunable, 1)
    assert shuffled.dtype == torch.bool
    for before, after in zip(mask.split(prunable.sizes), shuffled.split(prunable.sizes), strict=True):
        assert int(before.sum()) == int(after.sum())
        assert not torch.equal(before, after)
    assert torch.equal(layerwise_shuffle(mask, prunable, 1), shuffled)
    assert not torch.equal(layerwise_shuffle(mask, prunable, 2), shuffled)


def test_a_mask_of_another_network_is_not_shuffled():
    prunable = PrunableSet(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"shape \(6,\), got \(5,\)"):
        layerwise_shuffle(torch.ones(5, dtype=torch.bool), prunable, 0)


def equal(model: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def build(seed: int | None = None) -> nn.Module:
    if seed is not None:
        torch.manual_seed(seed)
    return models.build("fc", (1, 4, 4), 3, hidden=[12], batch_norm=True)


def test_reinitialisation_with_a_builder_is_the_network_of_that_seed():
    model, expected = build(0), build(7)
    state = torch.get_rng_state()
    model[2].running_mean.add_(1)
    reinitialise(model, 7, build)
    assert equal(model, expected)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(RuntimeError, match="size mismatch"):
        reinitialise(model, 7, lambda: models.build("fc", (1, 4, 4), 3, hidden=[13], batch_norm=True))


def test_reinitialisation_without_a_builder_draws_the_default_of_every_module():
    model, other = build(0), build(1)
    weights = {id(parameter) for parameter in model.parameters()}
    state = torch.get_rng_state()
    with torch.no_grad():
        model[2].running_var.fill_(9)
        model[2].weight.fill_(9)
    reinitialise(model, 7)
    reinitialise(other, 7)
    assert equal(model, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert {id(parameter) for parameter in model.parameters()} == weights
    assert bool((model[2].running_var == 1).all())
    assert float(model[1].weight.detach().abs().max()) <= 1 / math.sqrt(16)
    reinitialise(other, 8)
    assert not torch.equal(model[1].weight, other[1].weight)


@pytest.mark.parametrize("make", [build, None])
def test_reinitialisation_leaves_the_generators_of_gpus(monkeypatch, make):
    """`torch.manual_seed` seeds them too, at once or as soon as CUDA starts."""
    seeded, model = [], build(0)
    for device in (torch.cuda, torch.mps, torch.xpu):
        monkeypatch.setattr(device, "manual_seed_all" if device is not torch.mps else "manual_seed", seeded.append)
    reinitialise(model, 7, make)
    assert not seeded


def test_a_module_that_cannot_draw_its_parameters_is_named():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.size = nn.Parameter(torch.ones(3))

    model = nn.Sequential(nn.Linear(2, 3), Scale())
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match="1 has no reset_parameters: pass build"):
        reinitialise(model, 0)
    assert torch.equal(model[0].weight, before)


# --- rare gems ----------------------------------------------------------------------------------------------


def two_weights() -> tuple[Subject, list]:
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, -2.0]])
    subject = Subject(PrunableSet(model), 0, model=model, loss_fn=nn.functional.mse_loss)
    return subject, [(torch.ones(1, 2), torch.zeros(1, 1))]


def test_steps_of_the_search_by_hand():
    """p = (0.6, 0.4): f = 1, dL/df = 2, dL/dp = (2, -4). Then p = (0.4, 0.8): f = -2, dL/dp = (-4, 8)."""
    subject, batch = two_weights()
    start = GemSearch(torch.tensor([0.6, 0.4]), torch.tensor([True, True]), torch.zeros(2))
    first = gem_epoch(start, subject, batch, sparsity=0.5, epochs=3, period=5)
    torch.testing.assert_close(first.popups, torch.tensor([0.4, 0.8]))
    second = gem_epoch(first, subject, batch, sparsity=0.5, epochs=3, period=5)
    torch.testing.assert_close(second.velocity, torch.tensor([-2.2, 4.4]))
    torch.testing.assert_close(second.popups, torch.tensor([0.62, 0.36]))
    assert second.kept.tolist() == [True, True]
    assert start.popups.tolist() == torch.tensor([0.6, 0.4]).tolist()
    last = gem_epoch(second, subject, [], sparsity=0.5, epochs=3, period=5)
    assert last.kept.tolist() == [True, False]
    with pytest.raises(ValueError, match="the search of 3 epochs is over"):
        gem_epoch(last, subject, batch, sparsity=0.5, epochs=3)


def test_scores_stay_in_the_unit_interval_and_frozen_weights_out():
    subject, batch = two_weights()
    start = GemSearch(torch.tensor([0.6, 0.9]), torch.tensor([True, False]), torch.zeros(2))
    found = gem_epoch(start, subject, batch * 2, sparsity=0.5, epochs=9, period=9, lr=10)
    # f = w_1 alone; the second batch has f = 0.
    torch.testing.assert_close(found.popups, torch.tensor([0.0, 0.9]))
    assert found.kept.tolist() == [True, False]


def test_the_search_ends_at_exactly_the_sparsity_and_can_be_resumed():
    model = build(0).train()
    data = [(normal(16, 1, 4, 4, seed=seed, dtype=torch.float32), torch.arange(16) % 3) for seed in range(3)]
    prunable = PrunableSet(model)
    subject = Subject(prunable, 0, model=model)
    before = [tensor.clone() for tensor in model.state_dict().values()]
    search, seen = start_gem_search(prunable, 3), []
    assert bool(((search.popups >= 0) & (search.popups <= 1)).all())
    for _ in range(6):
        file = io.BytesIO()
        torch.save(vars(search), file)
        file.seek(0)
        search = gem_epoch(search, subject, data, sparsity=0.87, epochs=6, period=2)
        again = gem_epoch(GemSearch(**torch.load(file)), subject, data, sparsity=0.87, epochs=6, period=2)
        assert torch.equal(again.popups, search.popups)
        assert torch.equal(again.kept, search.kept)
        seen.append(search.kept)
    counts = [int((~kept).sum()) for kept in seen]
    dimension = prunable.dimension
    expected = [0, int(dimension * (1 - 0.13 ** (1 / 3))), int(dimension * (1 - 0.13 ** (2 / 3)))]
    assert counts == [0, expected[1], expected[1], expected[2], expected[2], removed_count(0.87, dimension)]
    assert not any(bool((later & ~earlier).any()) for earlier, later in zip(seen, seen[1:], strict=False))
    assert all(map(torch.equal, model.state_dict().values(), before))
    assert model.training


def test_the_search_finds_the_weights_that_make_the_function():
    """A target that uses a third of the network's own weights: the search keeps most of those, chance a third."""
    torch.manual_seed(0)
    model = nn.Linear(30, 1, bias=False)
    model.weight.data = torch.where(torch.arange(30) % 2 == 0, 1.0, -1.0)[None]
    useful = torch.arange(30) % 3 == 0
    inputs = normal(256, 30, dtype=torch.float32)
    labels = inputs @ (model.weight[0].detach() * useful)[:, None]
    subject = Subject(PrunableSet(model), 0, model=model, loss_fn=nn.functional.mse_loss)
    search = start_gem_search(subject.prunable, 0)
    batches = [(inputs[start : start + 32], labels[start : start + 32]) for start in range(0, 256, 32)]
    for _ in range(10):
        search = gem_epoch(search, subject, batches, sparsity=2 / 3, epochs=10, lr=0.02)
    assert int(search.kept.sum()) == 10
    assert int((search.kept & useful).sum()) >= 9


def test_the_search_normalises_by_the_batch_as_training_does():
    model = build(0).eval()
    modes = []
    model[2].register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    batch = [(normal(4, 1, 4, 4, dtype=torch.float32), torch.arange(4) % 3)]
    subject = Subject(PrunableSet(model), 0, model=model)
    gem_epoch(start_gem_search(subject.prunable, 0), subject, batch, sparsity=0.5, epochs=2)
    assert modes == [True]
    assert not model[2].training
    assert bool((model[2].running_mean == 0).all())


def test_a_period_of_no_epoch_is_refused():
    subject, batch = two_weights()
    with pytest.raises(ValueError, match="period must be at least 1"):
        gem_epoch(start_gem_search(subject.prunable, 0), subject, batch, sparsity=0.5, epochs=2, period=0)
