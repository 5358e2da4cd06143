"""Pruning methods: exact and seeded masks of every method, what each needs, how one is registered."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gwprune import models, pruning
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import METHODS, Subject, mask, rank, removed_count

from .helpers_networks import normal

MASKED = [name for name, method in METHODS.items() if method.when != "iterative"]
RANKED = [name for name in MASKED if not METHODS[name].depends_on_sparsity]


def network() -> PrunableSet:
    return PrunableSet(models.build("fc", (1, 4, 4), 3, hidden=[12, 7]))


def test_the_methods_have_names():
    trained = ["magnitude", "magnitude_layerwise", "random", "lamp", "random_erk", "random_matched", "taylor", "obd"]
    assert pruning.names("trained") == [*trained, "wood_fisher"]
    assert pruning.names("initialisation") == ["random", "random_erk", "smart_ratio", "snip", "grasp", "synflow"]
    assert pruning.names("any") == ["random", "random_erk"]
    assert pruning.names("iterative") == ["imp", "gmp", "rare_gems"]
    every = [name for when in ("trained", "initialisation", "iterative") for name in pruning.names(when)]
    assert set(pruning.names()) == set(every)
    assert [name for name in MASKED if name not in RANKED] == ["synflow"]


def test_an_unknown_method_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'magnitud'.*magnitude, magnitude_layerwise, random.*synflow"):
        rank("magnitud", network(), 0)
    with pytest.raises(ValueError, match=r"'synflo'.*synflow"):
        mask("synflo", network(), 0, 0.5)


def everything(seed: int = 0) -> tuple[PrunableSet, dict]:
    """A network in training mode with batch normalisation and dropout, frozen in part, and labelled data for it."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 6), nn.ReLU()
    )
    model.append(nn.Linear(6, 3))
    model[1].running_mean.uniform_(-0.1, 0.1)
    model[1].running_var.uniform_(0.5, 1.5)
    model[5].weight.requires_grad_(False)
    model[4].eval()
    inputs = normal(10, 1, 5, 5, dtype=torch.float32)
    return PrunableSet(model), {"model": model, "data": (inputs, torch.arange(10) % 3)}


@pytest.mark.parametrize("method", MASKED)
def test_masks_of_every_method_are_exact_and_seeded(method):
    prunable, given = everything()
    for sparsity in (0.0, 0.07, 0.5, 0.933, 1.0):
        kept = mask(method, prunable, 5, sparsity, **given)
        assert kept.dtype == torch.bool
        assert kept.shape == (prunable.dimension,)
        assert int((~kept).sum()) == removed_count(sparsity, prunable.dimension)
        assert torch.equal(mask(method, prunable, 5, sparsity, **given), kept)


@pytest.mark.parametrize("method", RANKED)
def test_a_ranking_ranks_every_weight_once_and_gives_the_masks(method):
    prunable, given = everything()
    ranking = rank(method, prunable, 5, **given)
    assert sorted(ranking.ranks.tolist()) == list(range(prunable.dimension))
    assert ranking.ranks.dtype == torch.int32
    before = torch.ones(prunable.dimension, dtype=torch.bool)
    for sparsity in (0.07, 0.5, 0.933):
        kept = mask(method, prunable, 5, sparsity, **given)
        assert torch.equal(kept, ranking.mask(sparsity))
        assert not bool((kept & ~before).any())
        before = kept


def state(model: nn.Module) -> list:
    tensors = [tensor.clone() for tensor in (*model.parameters(), *model.buffers())]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    flags += [parameter.grad is None for parameter in model.parameters()]
    return [tensors, flags + [module.training for module in model.modules()], torch.get_rng_state()]


def assert_as_before(model: nn.Module, before: list) -> None:
    tensors, flags, generator = state(model)
    assert all(map(torch.equal, tensors, before[0]))
    assert flags == before[1]
    assert torch.equal(generator, before[2])


@pytest.mark.parametrize("method", MASKED)
def test_every_method_leaves_the_network_and_the_random_state(method):
    prunable, given = everything()
    before = state(given["model"])
    mask(method, prunable, 5, 0.5, **given)
    assert_as_before(given["model"], before)


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if entry.needs])
def test_the_network_is_left_after_an_error_too(method):
    prunable, given = everything()
    model, before = given["model"], state(given["model"])
    calls = []

    def broken(module, inputs, output):
        calls.append(module.training)
        if method != "wood_fisher":  # torch.func refuses it
            model[1].running_mean.add_(1)  # as a module with a state of its own might
        raise RuntimeError("no memory left")

    hook = model[5].register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="no memory left"):
        mask(method, prunable, 5, 0.5, **given)
    hook.remove()
    assert calls == [False]
    assert_as_before(model, before)


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if entry.needs == "labels"])
def test_scores_do_not_depend_on_the_batch_size(method):
    prunable, given = everything()
    given["model"].double()
    given["data"] = (given["data"][0].double(), given["data"][1])
    scores = [
        METHODS[method].function(Subject(prunable, 0, **given, batch_size=size)) for size in (None, 1, 3, 10, 1000)
    ]
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if entry.needs])
def test_a_method_says_what_it_needs(method):
    prunable, given = everything()
    with pytest.raises(ValueError, match=rf"{method} needs the network"):
        mask(method, prunable, 0, 0.5, data=given["data"])
    what = {"labels": "samples with labels", "input_shape": "the shape of an input"}[METHODS[method].needs]
    with pytest.raises(ValueError, match=f"{method} needs {what}"):
        mask(method, prunable, 0, 0.5, model=given["model"])


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if entry.needs == "labels"])
def test_data_without_labels_are_not_enough_where_labels_are_needed(method):
    prunable, given = everything()
    with pytest.raises(ValueError, match=f"{method} needs samples with labels"):
        rank(method, prunable, 0, model=given["model"], data=(given["data"][0], None))


def test_a_method_whose_masks_depend_on_the_sparsity_has_no_ranking():
    prunable, given = everything()
    with pytest.raises(ValueError, match=r"synflow depend on the sparsity.*mask\(\)"):
        rank("synflow", prunable, 0, **given)


def test_an_unknown_option_is_named_with_the_known_ones():
    prunable, given = everything()
    with pytest.raises(ValueError, match=r"'samples' is no option of method obd; allowed: probes, operator"):
        rank("obd", prunable, 0, **given, options={"samples": 3})
    with pytest.raises(ValueError, match=r"'probes' is no option of method synflow; allowed: rounds"):
        mask("synflow", prunable, 0, 0.5, **given, options={"probes": 3})
    with pytest.raises(ValueError, match=r"'probes' is no option of method random; allowed: none"):
        rank("random", prunable, 0, options={"probes": 3})


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("obd", {"probes": 0}),
        ("obd", {"operator": "fisher"}),
        ("grasp", {"temperature": 0}),
        ("wood_fisher", {"block_size": 0}),
        ("wood_fisher", {"damping": 0}),
        ("smart_ratio", {"last_linear": 1.1}),
        ("synflow", {"rounds": 0}),
    ],
)
def test_options_without_a_meaning_are_refused(method, options):
    prunable, given = everything()
    with pytest.raises(ValueError, match=f"{next(iter(options))}|round"):
        mask(method, prunable, 0, 0.5, **given, options=options)


def test_the_prunable_set_must_be_that_of_the_network():
    prunable, _ = everything(0)
    _, given = everything(1)
    with pytest.raises(ValueError, match="another network"):
        rank("taylor", prunable, 0, **given)


def test_data_of_unequal_lengths_are_refused():
    prunable, given = everything()
    inputs, labels = given["data"]
    with pytest.raises(ValueError, match="10 inputs but 9 targets"):
        rank("taylor", prunable, 0, model=given["model"], data=(inputs, labels[:9]))


def test_a_network_without_prunable_weights_is_refused():
    with pytest.raises(ValueError, match="no prunable weights"):
        rank("magnitude", PrunableSet(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3))), 0)


@pytest.mark.parametrize("method", ["taylor", "snip", "obd", "grasp", "wood_fisher", "synflow", "lamp"])
def test_a_diverged_network_is_refused(method):
    prunable, given = everything()
    with torch.no_grad():
        prunable.parameters[0][0, 0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match=r"finite|NaN"):
        mask(method, prunable, 0, 0.5, **given)


def test_a_loader_serves_as_data():
    prunable, given = everything()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*given["data"]), batch_size=4)
    expected = rank("taylor", prunable, 0, **given)
    assert torch.equal(rank("taylor", prunable, 0, model=given["model"], data=loader).ranks, expected.ranks)
