"""Training: label smoothing, accumulation, mixed precision, and segments of a recipe that hand over momentum."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from gwprune.network.prunable import PrunableSet
from gwprune.training import train as training
from gwprune.training.evaluation import evaluate
from gwprune.training.train import EpochRecord, Recipe, _precision, train

from .helpers_training import (
    RECIPE,
    TRAIN,
    VAL,
    StopError,
    network,
    plain,
    random_mask,
    split,
    state,
    stop_after,
    without_time,
)

# --- options of the recipe ----------------------------------------------------------------------------------


def test_label_smoothing_is_in_the_gradient_and_not_in_the_reported_loss():
    """One step towards 0.8 of the label and 0.2 spread over the three classes, by hand."""
    model, twin = plain(), plain()
    recipe = Recipe(epochs=1, batch_size=26, lr=0.125, momentum=0, schedule="constant", label_smoothing=0.2)
    (record,) = train(model, TRAIN, VAL, recipe, 0)
    inputs, labels = TRAIN.as_tensors()
    targets = 0.8 * functional.one_hot(labels, 3) + 0.2 / 3
    logarithms = twin(inputs).log_softmax(1)
    gradients = torch.autograd.grad(-(targets * logarithms).sum(1).mean(), list(twin.parameters()))
    for (name, found), start, gradient in zip(model.named_parameters(), twin.parameters(), gradients, strict=True):
        torch.testing.assert_close(found.detach(), start.detach() - 0.125 * gradient, rtol=1e-5, atol=1e-7, msg=name)
    assert record.train_loss == pytest.approx(-logarithms.gather(1, labels[:, None]).mean().item(), rel=1e-6)
    assert record.val_loss == evaluate(model, VAL).loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("accumulation", [2, 3, 6])
def test_accumulated_micro_batches_make_the_step_of_their_batch(accumulation, smoothing):
    """26 samples in batches of 12: the last one, of 2, is one micro-batch."""
    recipe = Recipe(epochs=3, batch_size=12, lr=0.1, l1=1e-3, label_smoothing=smoothing)
    model, whole, sizes = plain(), plain(), []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])) if module.training else None)
    found = train(model, TRAIN, VAL, replace(recipe, accumulation=accumulation), 0)
    expected = train(whole, TRAIN, VAL, recipe, 0)
    micro = 12 // accumulation
    assert sizes == 3 * (2 * accumulation * [micro] + [2])
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert [record.train_loss for record in found] == pytest.approx([r.train_loss for r in expected], rel=1e-5)
    assert [record.train_accuracy for record in found] == [record.train_accuracy for record in expected]


def test_unequal_micro_batches_of_a_shorter_last_batch_weigh_by_their_samples():
    """25 samples in batches of 16: the last one, of 9, is two micro-batches of at most 8 samples."""
    recipe = Recipe(epochs=1, batch_size=16, lr=0.1, momentum=0, schedule="constant")
    model, whole, sizes = plain(), plain(), []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])) if module.training else None)
    train(model, split(25, 0), VAL, replace(recipe, accumulation=2), 0)
    train(whole, split(25, 0), VAL, recipe, 0)
    assert sizes == [8, 8, 5, 4]
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-5, atol=1e-7, msg=name)


def test_no_micro_batch_is_a_single_sample_that_batch_normalisation_refuses():
    """15 samples in batches of 4: the last one, of 3, would be micro-batches of 2 and 1."""
    recipe = Recipe(epochs=1, batch_size=4, lr=0.1, accumulation=2)
    torch.manual_seed(0)
    model, sizes = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])) if module.training else None)
    train(model, split(15, 0), VAL, recipe, 0)
    assert sizes == [2] * 6 + [3]


def test_mixed_precision_leaves_training_on_the_processor_as_it_is_and_says_so(monkeypatch, caplog):
    def refuse(*args, **more):
        raise AssertionError("autocast on the processor")

    monkeypatch.setattr(torch, "autocast", refuse)
    with_it, without = network(), network()
    with caplog.at_level("INFO", logger="gwprune"):
        one = train(with_it, TRAIN, VAL, replace(RECIPE, mixed_precision=True), 3)
    assert [message for message in caplog.messages if "mixed_precision" in message] == [
        "mixed_precision is for CUDA devices: training on cpu in single precision"
    ]
    two = train(without, TRAIN, VAL, RECIPE, 3)
    assert state(with_it) == state(without)
    assert without_time(one) == without_time(two)


def test_mixed_precision_on_cuda_is_bfloat16(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "autocast", lambda *args, **more: calls.append((args, more)))
    _precision(replace(RECIPE, mixed_precision=True), torch.device("cuda:1"))
    _precision(RECIPE, torch.device("cuda:1"))
    assert calls == [(("cuda",), {"dtype": torch.bfloat16})]


def test_every_forward_pass_of_training_is_in_the_chosen_precision_and_no_backward_pass(monkeypatch):
    inside, seen = [], []

    class Precision:
        def __enter__(self):
            inside.append(1)

        def __exit__(self, *args):
            inside.pop()

    monkeypatch.setattr(training, "_precision", lambda *_: Precision())
    model = plain()
    model.register_forward_pre_hook(lambda module, _: seen.append((module.training, len(inside))))
    model[1].weight.register_hook(lambda _: seen.append(("backward", len(inside))))
    train(model, TRAIN, VAL, replace(RECIPE, accumulation=2), 0)
    assert set(seen) == {(True, 1), (False, 0), ("backward", 0)}


# --- segments of a recipe -----------------------------------------------------------------------------------


SEGMENTED = replace(RECIPE, warmup_epochs=1.5, augmentation="flip")


def in_segments(model: nn.Module, ends: list[int], recipe: Recipe = SEGMENTED, **more) -> list[EpochRecord]:
    """Train from 0 to each of ``ends`` in turn, handing the momentum over."""
    records, momentum = [], {}
    for first, last in zip([0, *ends], ends, strict=False):
        segment = {"first_epoch": first, "last_epoch": last, "momentum": momentum, **more}
        records += train(model, TRAIN, VAL, recipe, 3, **segment)
    return records


@pytest.mark.parametrize("ends", [[1, 4], [2, 3, 4]])
@pytest.mark.parametrize("schedule", ["cosine", "multistep"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("make", [plain, network])
def test_segments_that_hand_over_momentum_end_as_the_whole_training(make, masked, schedule, ends):
    recipe = replace(SEGMENTED, schedule=schedule, milestones=[3])
    more = {"mask": random_mask(make())} if masked else {}
    whole, parts = make(), make()
    expected = train(whole, TRAIN, VAL, recipe, 3, **more)
    assert without_time(in_segments(parts, ends, recipe, **more)) == without_time(expected)
    assert state(parts) == state(whole)


def test_a_segment_without_the_momentum_of_the_one_before_ends_elsewhere():
    whole, parts = plain(), plain()
    train(whole, TRAIN, VAL, SEGMENTED, 3)
    train(parts, TRAIN, VAL, SEGMENTED, 3, last_epoch=2)
    train(parts, TRAIN, VAL, SEGMENTED, 3, first_epoch=2)
    assert state(parts) != state(whole)


def test_momentum_is_that_of_one_step_by_hand():
    """From 0 the buffer is the gradient of the objective, here with weight decay."""
    model, twin, momentum = plain(), plain(), {}
    recipe = Recipe(epochs=1, batch_size=26, lr=0.1, weight_decay=0.01, l1=0.02)
    train(model, TRAIN, VAL, recipe, 0, momentum=momentum)
    inputs, labels = TRAIN.as_tensors()
    objective = functional.cross_entropy(twin(inputs), labels)
    objective = objective + 0.02 * sum(twin[i].weight.abs().sum() for i in (1, 3))
    objective = objective + 0.01 / 2 * sum((parameter**2).sum() for parameter in twin.parameters())
    gradients = torch.autograd.grad(objective, list(twin.parameters()))
    assert list(momentum) == [name for name, _ in twin.named_parameters()]
    for (name, buffer), gradient in zip(momentum.items(), gradients, strict=True):
        torch.testing.assert_close(buffer, gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_without_momentum_in_the_recipe_the_buffers_are_0():
    momentum = {}
    train(plain(), TRAIN, VAL, replace(RECIPE, momentum=0), 0, momentum=momentum)
    assert not any(buffer.any() for buffer in momentum.values())


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_does_not_move_a_weight_that_is_pruned_between_two_segments(nesterov):
    model, momentum, seen = network(), {}, []
    recipe, prunable = replace(SEGMENTED, nesterov=nesterov), PrunableSet(model)
    train(model, TRAIN, VAL, recipe, 3, last_epoch=2, momentum=momentum)
    mask = random_mask(model)
    assert torch.cat([momentum[name].reshape(-1) for name in prunable.names])[~mask].any()
    model.register_forward_hook(lambda *_: seen.append(bool((prunable.flatten()[~mask] == 0).all())))
    train(model, TRAIN, VAL, recipe, 3, first_epoch=2, momentum=momentum, mask=mask)
    assert len(seen) > 2 * 5
    assert all(seen)
    flat = torch.cat([momentum[name].reshape(-1) for name in prunable.names])
    assert not flat[~mask].any()
    assert flat[mask].all()


def test_the_momentum_that_is_handed_over_shares_no_memory_with_what_was_given():
    momentum = {}
    train(plain(), TRAIN, VAL, RECIPE, 0, last_epoch=1, momentum=momentum)
    given = dict(momentum)
    kept = {name: buffer.clone() for name, buffer in given.items()}
    train(plain(), TRAIN, VAL, RECIPE, 0, first_epoch=1, momentum=momentum)
    assert all(torch.equal(given[name], kept[name]) for name in given)
    assert not all(torch.equal(momentum[name], kept[name]) for name in given)


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (2, 2), (3, 1), (0, 5), (4, None)])
def test_epochs_that_are_no_segment_of_the_recipe_are_refused(first, last):
    with pytest.raises(ValueError, match=f"first_epoch = {first} and last_epoch = {last or 4} are no segment of 4"):
        train(plain(), TRAIN, VAL, RECIPE, 0, first_epoch=first, last_epoch=last)


@pytest.mark.parametrize("change", [{"3.bias": torch.zeros(4)}, {"5.bias": torch.zeros(3)}])
def test_momentum_of_another_network_is_refused_by_name(change):
    momentum = {name: torch.zeros_like(parameter) for name, parameter in plain().named_parameters()}
    with pytest.raises(ValueError, match=f"momentum does not fit the network: {next(iter(change))}"):
        train(plain(), TRAIN, VAL, RECIPE, 0, momentum=momentum | change)


def test_an_interrupted_segment_ends_as_if_it_had_not_been_interrupted(tmp_path):
    whole = network()
    train(whole, TRAIN, VAL, SEGMENTED, 3)
    parts, momentum = network(), {}
    train(parts, TRAIN, VAL, SEGMENTED, 3, last_epoch=1, momentum=momentum)
    start, path = {name: tensor.clone() for name, tensor in parts.state_dict().items()}, tmp_path / "checkpoint.pt"
    with pytest.raises(StopError):
        train(
            parts, TRAIN, VAL, SEGMENTED, 3, first_epoch=1, momentum=momentum, checkpoint=path, progress=stop_after(3)
        )
    resumed, calls = network(1), []
    resumed.load_state_dict(start)
    records = train(
        resumed, TRAIN, VAL, SEGMENTED, 3, first_epoch=1, momentum=momentum, checkpoint=path, progress=calls.append
    )
    assert [record.epoch for record in calls] == [4]
    assert [record.epoch for record in records] == [2, 3, 4]
    assert state(resumed) == state(whole)


def test_no_checkpoint_is_written_after_the_last_epoch_of_a_segment(tmp_path):
    path = tmp_path / "checkpoint.pt"
    train(plain(), TRAIN, VAL, RECIPE, 3, last_epoch=1, checkpoint=path)
    assert not path.exists()
