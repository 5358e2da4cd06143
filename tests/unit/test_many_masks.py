"""Many masks of one ranking: the values of each pruned network on its own, from work that masks share."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gwprune import models
from gwprune.datasets import DeviceSplit
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import Ranking, rank, removed_count
from gwprune.training import many_masks
from gwprune.training.evaluation import evaluate, pruned
from gwprune.training.many_masks import evaluate_masks

CLASSES = 7
SPARSITIES = [0.0, 0.001, 0.002, 0.05, 0.06, 0.3, 0.3, 0.31, 0.5, 0.8, 0.9, 0.905, 0.99, 0.999]


def split(count: int, seed: int = 0) -> DeviceSplit:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    return DeviceSplit(images, torch.randint(0, CLASSES, (count,), generator=generator), [0.4], [0.3])


SPLITS = [split(83), split(31, seed=1)]


def network(hidden: list[int], *, bias: bool = True, dead: bool = False) -> nn.Sequential:
    """Biases that are not zero; ``dead``: units that never fire, and units that nothing leads to or from."""
    torch.manual_seed(0)
    sizes = [36, *hidden, CLASSES]
    parts: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        parts += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    model = nn.Sequential(*parts[:-1])
    with torch.no_grad():
        for layer in model[1::2]:
            layer.weight *= 2
        if dead:
            model[1].bias[:3] = -100.0
            model[1].weight[3] = 0.0
            model[3].weight[:, 4] = 0.0
            model[3].weight[1] = 0.0
    return model


def counts_of(prunable: PrunableSet, sparsities=SPARSITIES) -> list[int]:
    return [removed_count(sparsity, prunable.dimension) for sparsity in sparsities]


def alone(model: nn.Module, prunable: PrunableSet, ranking: Ranking, counts: list[int]) -> list:
    found = []
    with pruned(prunable, ranking, counts) as pruning:
        for _ in pruning:
            found.append([evaluate(model, part) for part in SPLITS])
    return found


def assert_same(found: list, expected: list) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.loss == pytest.approx(other.loss, rel=1e-5)
            # Exactly: rounding does not turn these samples over, and outputs that are zero stay equal.
            assert (one.accuracy, one.top5_accuracy) == (other.accuracy, other.top5_accuracy)


def no_fallback(*_args, **_options):
    raise AssertionError("evaluated mask by mask")


NETWORKS = {
    "two hidden layers": lambda: network([20, 15]),
    "no bias": lambda: network([20, 15], bias=False),
    "dead units": lambda: network([20, 15, 9], dead=True),
    "one hidden layer": lambda: network([30]),
    "no hidden layer": lambda: network([]),
}


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_every_mask_has_the_values_of_its_network_alone(monkeypatch, build, method):
    model = build()
    prunable = PrunableSet(model)
    ranking = rank(method, prunable, 0)
    expected = alone(model, prunable, ranking, counts_of(prunable))
    monkeypatch.setattr(many_masks, "evaluate", no_fallback)
    assert_same(list(evaluate_masks(model, prunable, ranking, counts_of(prunable), SPLITS)), expected)


@pytest.mark.parametrize("many", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("sparse", [0.0, 2.0])
def test_no_choice_of_a_cheaper_product_changes_the_values(monkeypatch, many, sparse):
    model = network([20, 15, 9], dead=True)
    prunable = PrunableSet(model)
    ranking = rank("magnitude", prunable, 0)
    expected = alone(model, prunable, ranking, counts_of(prunable))
    monkeypatch.setattr(many_masks, "_MANY", many)
    monkeypatch.setattr(many_masks, "_SPARSE", sparse)
    assert_same(list(evaluate_masks(model, prunable, ranking, counts_of(prunable), SPLITS)), expected)


@pytest.mark.parametrize(("block", "samples", "memory"), [(2, 10, 0), (3, 83, 10**9), (5, 7, 20_000), (100, 1, 10**6)])
def test_no_way_to_cut_the_work_changes_the_values(monkeypatch, block, samples, memory):
    model = network([20, 15])
    prunable = PrunableSet(model)
    ranking = rank("magnitude", prunable, 0)
    expected = alone(model, prunable, ranking, counts_of(prunable))
    for name, value in (("_BLOCK", block), ("_SAMPLES", samples), ("_MEMORY", memory)):
        monkeypatch.setattr(many_masks, name, value)
    assert_same(list(evaluate_masks(model, prunable, ranking, counts_of(prunable), SPLITS)), expected)


def test_masks_in_any_order_keep_their_values():
    model = network([20, 15])
    prunable = PrunableSet(model)
    ranking = rank("magnitude", prunable, 0)
    counts = counts_of(prunable, [0.5, 0.9, 0.2, 0.2, 0.99, 0.0])
    expected = alone(model, prunable, ranking, counts)
    assert_same(list(evaluate_masks(model, prunable, ranking, counts, SPLITS)), expected)


def test_a_small_step_multiplies_only_what_it_changed(monkeypatch):
    """Weights out of one unit's incoming ones: a column of the next layer, and no product of the first one's size."""
    model = network([20, 15])
    prunable = PrunableSet(model)
    scores = torch.ones(prunable.dimension)
    scores[36 * 4 : 36 * 5] = 0.0  # the incoming weights of unit 4
    seen = []
    whole = many_masks._compressed
    monkeypatch.setattr(many_masks, "_compressed", lambda matrix: seen.append(tuple(matrix.shape)) or whole(matrix))
    list(evaluate_masks(model, prunable, Ranking.of_scores(scores), [0, 20, 36], SPLITS))
    afresh, step = [(20, 36), (15, 20), (7, 15)], [(15, 1), (7, 15)]
    assert seen == [*afresh, *step, *step]


@pytest.mark.parametrize("first", [1, 2, 3])
def test_without_biases_an_emptied_layer_has_equal_outputs(monkeypatch, first):
    """Rounding in place of zeros would give a network that knows nothing an accuracy of its own."""
    model = network([20, 15], bias=False)
    prunable = PrunableSet(model)
    layer = [torch.full((size,), float(number != first)) for number, size in enumerate(prunable.sizes, 1)]
    ranking = Ranking.of_scores(torch.cat(layer))
    size = prunable.sizes[first - 1]
    monkeypatch.setattr(many_masks, "evaluate", no_fallback)
    found = list(evaluate_masks(model, prunable, ranking, [0, size // 2, size - 1, size], SPLITS))
    for part, evaluation in zip(SPLITS, found[-1], strict=True):
        assert evaluation.loss == pytest.approx(math.log(CLASSES), rel=1e-6)
        assert evaluation.accuracy == 100 * int((part.labels == 0).sum()) / len(part)
        assert evaluation.top5_accuracy == 100.0


def test_emptied_layers_have_the_values_of_their_biases():
    model = network([20, 15])
    prunable = PrunableSet(model)
    scores = torch.arange(prunable.dimension).flip(0)  # the last layer goes first
    ranking = Ranking.of_scores(scores)
    counts = [0, 7 * 15, 7 * 15 + 15 * 20, prunable.dimension]
    found = list(evaluate_masks(model, prunable, ranking, counts, SPLITS))
    assert_same(found, alone(model, prunable, ranking, counts))
    output = model[5].bias.detach().double().log_softmax(0)
    for evaluations in found[1:]:
        for part, evaluation in zip(SPLITS, evaluations, strict=True):
            assert evaluation.loss == pytest.approx(-float(output[part.labels].mean()), rel=1e-6)


def test_rounding_does_not_grow_over_many_small_steps():
    model = network([20, 15])
    prunable = PrunableSet(model)
    ranking = rank("random", prunable, 0)
    counts = list(range(prunable.dimension + 1))[::3]
    assert_same(list(evaluate_masks(model, prunable, ranking, counts, SPLITS)), alone(model, prunable, ranking, counts))


def test_infinite_activations_have_the_values_of_each_network_alone():
    model = network([20, 15])
    with torch.no_grad():
        model[1].weight[0] = 3e38
    prunable = PrunableSet(model)
    ranking = rank("random", prunable, 0)
    counts = counts_of(prunable, [0.0, 0.1, 0.5, 0.9])
    expected = alone(model, prunable, ranking, counts)
    found = list(evaluate_masks(model, prunable, ranking, counts, SPLITS))
    assert not all(math.isfinite(evaluation.loss) for evaluation in expected[0])
    assert repr(found) == repr(expected)


# --- other networks -----------------------------------------------------------------------------------------


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked() -> nn.Module:
    model = network([8])
    model[1].register_forward_hook(lambda module, inputs, output: output + 1)
    return model


def shared() -> nn.Module:
    model = network([8, 8, 8])
    model[5].weight = model[3].weight
    return model


OTHERS = {
    "batch norm": lambda: models.build("fc", (1, 6, 6), CLASSES, hidden=[8], batch_norm=True),
    "convolution": lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, CLASSES)),
    "a forward of its own": lambda: Doubled(*network([8])),
    "a hook": hooked,
    "a shared weight": shared,
    "another activation": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, CLASSES)),
    "no flattening": lambda: nn.Sequential(nn.Unflatten(1, (1, 1)), nn.Flatten(), nn.Linear(36, CLASSES)),
    "activation at the end": lambda: nn.Sequential(*network([8]), nn.ReLU()),
}


@pytest.mark.parametrize("build", OTHERS.values(), ids=OTHERS)
def test_other_networks_are_evaluated_mask_by_mask(build):
    torch.manual_seed(0)
    model = build()
    prunable = PrunableSet(model)
    ranking = rank("magnitude", prunable, 0)
    counts = counts_of(prunable, [0.0, 0.3, 0.9])
    assert list(evaluate_masks(model, prunable, ranking, counts, SPLITS)) == alone(model, prunable, ranking, counts)


def test_dropout_and_nested_parts_do_not_count_as_another_network(monkeypatch):
    first, second, *rest = network([8])
    model = nn.Sequential(first, nn.Sequential(second, nn.Dropout(0.5)), *rest).train()
    prunable = PrunableSet(model)
    ranking = rank("magnitude", prunable, 0)
    counts = counts_of(prunable, [0.0, 0.3, 0.9])
    expected = alone(model, prunable, ranking, counts)
    monkeypatch.setattr(many_masks, "evaluate", no_fallback)
    assert_same(list(evaluate_masks(model, prunable, ranking, counts, SPLITS)), expected)


# --- the network afterwards ---------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [lambda: network([20, 15]), OTHERS["batch norm"]])
@pytest.mark.parametrize("sparsities", [[0.5], [0.1, 0.5, 0.9]])
def test_the_dense_weights_are_there_whenever_a_result_is_handed_out(build, sparsities):
    model = build()
    prunable = PrunableSet(model)
    with torch.no_grad():  # values that arithmetic would not bring back
        prunable.parameters[0][0, :2] = torch.tensor([-0.0, 1e-42])
    before = prunable.flatten().numpy().tobytes()
    places = [parameter.data_ptr() for parameter in prunable.parameters]
    counts = counts_of(prunable, sparsities)
    for _ in evaluate_masks(model, prunable, rank("magnitude", prunable, 0), counts, SPLITS):
        assert prunable.flatten().numpy().tobytes() == before
    assert [parameter.data_ptr() for parameter in prunable.parameters] == places


def test_the_dense_weights_come_back_after_an_error(monkeypatch):
    model = network([20, 15])
    prunable = PrunableSet(model)
    before = prunable.flatten().numpy().tobytes()

    def fail(*_):
        assert prunable.flatten().numpy().tobytes() != before
        raise KeyboardInterrupt

    monkeypatch.setattr(many_masks._Running, "advance", fail)
    counts = counts_of(prunable, [0.5, 0.9])
    with pytest.raises(KeyboardInterrupt):
        next(evaluate_masks(model, prunable, rank("magnitude", prunable, 0), counts, SPLITS))
    assert prunable.flatten().numpy().tobytes() == before


def test_a_ranking_of_another_network_is_refused():
    prunable, other = PrunableSet(network([8])), PrunableSet(network([9]))
    with pytest.raises(ValueError, match=f"{other.dimension} weights"):
        next(evaluate_masks(network([8]), prunable, rank("magnitude", other, 0), [1, 2], SPLITS))
