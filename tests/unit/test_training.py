"""Training: schedules, the l1 step, masks that hold, repeatable and resumable runs, divergence."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from gwprune.network.prunable import PrunableSet
from gwprune.training.evaluation import evaluate
from gwprune.training.train import DivergedError, Recipe, learning_rate, train

from .helpers_training import (
    RECIPE,
    TRAIN,
    VAL,
    network,
    plain,
    random_mask,
    split,
    state,
    without_time,
)

# --- learning rate ------------------------------------------------------------------------------------------


def rates(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    return [learning_rate(recipe, step, steps_per_epoch) for step in range(recipe.epochs * steps_per_epoch)]


def test_a_constant_rate_is_constant():
    assert rates(Recipe(epochs=3, lr=0.25, schedule="constant"), 4) == [0.25] * 12


def test_the_cosine_starts_at_the_rate_falls_with_every_step_and_ends_near_0():
    found = rates(Recipe(epochs=2, lr=0.5, schedule="cosine"), 4)
    by_hand = [0.5 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert found == pytest.approx(by_hand, rel=1e-12)
    assert found[0] == 0.5
    assert found[4] == pytest.approx(0.25)
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] < 0.02
    assert rates(Recipe(epochs=100, lr=0.5), 10)[-1] < 0.5 * 3e-6


def test_multistep_counts_epochs():
    found = rates(Recipe(epochs=5, lr=1.0, schedule="multistep", milestones=[2, 4], gamma=0.5), 3)
    assert found == [1.0] * 6 + [0.5] * 6 + [0.25] * 3


def test_warm_up_rises_in_equal_steps_to_the_rate_and_then_the_schedule_follows():
    recipe = Recipe(epochs=4, lr=0.8, schedule="cosine", warmup_epochs=1)
    found = rates(recipe, 4)
    assert found[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert found[4:] == pytest.approx([0.4 * (1 + math.cos(math.pi * k / 12)) for k in range(12)])


def test_warm_up_of_half_an_epoch_counts_steps():
    constant = Recipe(epochs=2, lr=0.6, schedule="constant", warmup_epochs=0.5)
    assert rates(constant, 4) == pytest.approx([0.3, 0.6] + [0.6] * 6)
    assert rates(constant, 5) == pytest.approx([0.2, 0.4, 0.6] + [0.6] * 7)


def test_warm_up_does_not_shift_milestones():
    recipe = Recipe(epochs=3, lr=0.4, schedule="multistep", milestones=[2], gamma=0.1, warmup_epochs=1)
    assert rates(recipe, 2) == pytest.approx([0.2, 0.4, 0.4, 0.4, 0.04, 0.04])


def test_a_record_holds_the_rate_of_its_first_step():
    records = train(plain(), TRAIN, VAL, replace(RECIPE, warmup_epochs=1), 0)
    steps = 5  # 26 samples, 6 a batch
    assert [record.lr for record in records] == rates(replace(RECIPE, warmup_epochs=1), steps)[::steps]


# --- one step -----------------------------------------------------------------------------------------------


def one_step(model: nn.Sequential, l1: float, lr: float = 0.125) -> None:
    """The whole split as one batch, plain gradient descent."""
    train(model, TRAIN, VAL, Recipe(epochs=1, batch_size=26, lr=lr, momentum=0, schedule="constant", l1=l1), 0)


@pytest.mark.parametrize("l1", [0.0, 0.03])
def test_one_step_descends_the_loss_plus_l1_times_the_sum_of_absolute_weights(l1):
    model, twin = plain(), plain()
    with torch.no_grad():  # the subgradient at 0 is 0
        model[1].weight[0, :4] = twin[1].weight[0, :4] = 0.0
    one_step(model, l1)
    inputs, labels = TRAIN.as_tensors()
    objective = functional.cross_entropy(twin(inputs), labels)
    objective = objective + l1 * sum(twin[i].weight.abs().sum() for i in (1, 3))
    for parameter, gradient in zip(
        twin.parameters(), torch.autograd.grad(objective, list(twin.parameters())), strict=True
    ):
        parameter.data -= 0.125 * gradient
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, twin.state_dict()[name], rtol=1e-5, atol=1e-7, msg=name)


def test_the_l1_term_moves_weights_by_its_sign_and_no_bias():
    with_l1, without = network(), network()
    one_step(with_l1, 0.5, lr=0.25)
    one_step(without, 0.0, lr=0.25)
    start = network().state_dict()
    for name, tensor in with_l1.state_dict().items():
        difference = tensor - without.state_dict()[name]
        expected = -0.25 * 0.5 * start[name].sign() if name in ("1.weight", "5.weight") else torch.zeros(())
        torch.testing.assert_close(difference.float(), expected.expand_as(difference).float(), rtol=1e-5, atol=1e-6)


def test_a_stronger_l1_gives_smaller_weights():
    sums = []
    for l1 in (0.0, 0.01, 0.1):
        model = plain()
        train(model, TRAIN, VAL, replace(RECIPE, epochs=10, l1=l1), 0)
        sums.append(float(PrunableSet(model).flatten().abs().sum()))
    assert sums[2] < 0.5 * sums[1] < 0.5 * sums[0]


def test_training_lowers_the_loss_and_records_every_epoch():
    model, calls = plain(), []
    records = train(model, TRAIN, VAL, Recipe(epochs=40, batch_size=5, lr=0.1), 0, progress=calls.append)
    assert [record.epoch for record in records] == list(range(1, 41))
    assert calls == records
    assert records[-1].train_loss < 0.2 < records[0].train_loss
    assert records[-1].train_accuracy > 95
    found = evaluate(model, VAL)
    assert (records[-1].val_loss, records[-1].val_accuracy) == (found.loss, found.accuracy)
    assert all(record.seconds > 0 for record in records)
    assert not model.training


def test_a_record_holds_mean_loss_and_accuracy_of_the_batches_before_their_steps():
    model, still = plain(), plain()
    recipe = Recipe(epochs=1, batch_size=26, lr=0.5, momentum=0, schedule="constant")
    (record,) = train(model, TRAIN, VAL, recipe, 0)
    expected = evaluate(still, TRAIN)
    assert record.train_loss == pytest.approx(expected.loss, rel=1e-6)
    assert record.train_accuracy == expected.accuracy


def test_a_last_batch_of_one_sample_does_not_stop_a_network_with_batch_normalisation():
    records = train(network(), TRAIN, VAL, replace(RECIPE, epochs=1, batch_size=25), 0)
    assert math.isfinite(records[0].train_loss)


# --- masks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("make", [plain, network])
def test_a_mask_is_held_exactly_with_momentum_weight_decay_and_l1(make, nesterov):
    model = make()
    mask = random_mask(model)
    start = PrunableSet(model).flatten()
    after = []
    recipe = replace(RECIPE, nesterov=nesterov, weight_decay=0.05, l1=0.02)
    train(model, TRAIN, VAL, recipe, 0, mask=mask, progress=lambda _: after.append(PrunableSet(model).flatten()[~mask]))
    assert len(after) == 4
    assert all(bool((weights == 0).all()) for weights in after)
    found = PrunableSet(model).flatten()
    assert bool((found[mask] != start[mask]).all())


def test_a_mask_is_held_in_every_step_and_not_only_at_the_end():
    model = plain()
    mask = random_mask(model)
    seen = []
    prunable = PrunableSet(model)
    model.register_forward_pre_hook(lambda *_: seen.append(bool((prunable.flatten()[~mask] == 0).all())))
    train(model, TRAIN, VAL, RECIPE, 0, mask=mask)
    assert len(seen) > 4 * 5
    assert all(seen)


def test_a_full_mask_changes_nothing():
    masked, free = plain(), plain()
    train(masked, TRAIN, VAL, RECIPE, 0, mask=torch.ones(PrunableSet(masked).dimension, dtype=torch.bool))
    train(free, TRAIN, VAL, RECIPE, 0)
    assert state(masked) == state(free)


def test_an_empty_mask_trains_biases_only():
    model = plain()
    train(model, TRAIN, VAL, RECIPE, 0, mask=torch.zeros(PrunableSet(model).dimension, dtype=torch.bool))
    assert not PrunableSet(model).flatten().any()
    assert model[3].bias.any()


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="152"):
        train(plain(), TRAIN, VAL, RECIPE, 0, mask=torch.ones(151, dtype=torch.bool))


# --- repeatable ---------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_records_bit_for_bit():
    first, again = network(), network()
    one = train(first, TRAIN, VAL, RECIPE, 3)
    torch.manual_seed(99)  # the caller's random numbers do not matter
    two = train(again, TRAIN, VAL, RECIPE, 3)
    assert state(first) == state(again)
    assert without_time(one) == without_time(two)


@pytest.mark.parametrize("make", [plain, network])
def test_another_seed_gives_other_weights(make):
    first, other = make(), make()
    train(first, TRAIN, VAL, RECIPE, 3)
    train(other, TRAIN, VAL, RECIPE, 4)
    assert state(first) != state(other)


def test_two_epochs_see_the_samples_in_different_orders():
    orders = []
    model = plain()
    model.register_forward_pre_hook(
        lambda module, args: orders.append(args[0].sum((1, 2, 3)).tolist()) if module.training else None
    )
    train(model, TRAIN, VAL, Recipe(epochs=2, batch_size=26), 0)
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_augmentation_changes_the_inputs_but_stays_repeatable():
    models = [plain() for _ in range(3)]
    for model, augmentation in zip(models, ("none", "crop_flip", "crop_flip"), strict=True):
        train(model, TRAIN, VAL, replace(RECIPE, augmentation=augmentation), 0)
    assert state(models[0]) != state(models[1]) == state(models[2])


# --- divergence ---------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_training_and_names_epoch_and_step():
    recipe = Recipe(epochs=3, batch_size=5, lr=1e30, momentum=0, schedule="constant")
    with pytest.raises(DivergedError, match=r"not finite at epoch 1, step [2-6];"):
        train(plain(), TRAIN, VAL, recipe, 0)


def test_the_first_step_that_is_not_finite_is_named():
    model = plain()
    steps = []

    def spoil(module, args, output):
        if module.training:
            steps.append(1)
            return output * math.nan if len(steps) >= 5 + 4 else output
        return None

    model.register_forward_hook(spoil)
    with pytest.raises(DivergedError, match="epoch 2, step 4;"):
        train(model, TRAIN, VAL, RECIPE, 0)


def test_divergence_is_noticed_long_before_the_end_of_a_long_epoch():
    model, steps = plain(), []
    long = split(450, 5)
    model.register_forward_pre_hook(lambda *_: steps.append(1))
    with torch.no_grad():
        model[1].weight[0, 0] = math.nan
    with pytest.raises(DivergedError, match="epoch 1, step 1;"):
        train(model, long, VAL, Recipe(epochs=1, batch_size=1), 0)
    assert len(steps) <= 100


def test_weights_that_the_last_step_blew_up_are_divergence_too():
    """Every training loss was finite when it was computed; the network that is left gives NaN."""
    model = plain()
    recipe = Recipe(epochs=1, batch_size=26, lr=1e38, momentum=0, schedule="constant")
    with pytest.raises(DivergedError, match="epoch 1"):
        train(model, TRAIN, VAL, recipe, 0)


def test_a_diverged_epoch_leaves_no_checkpoint_of_itself(tmp_path):
    path = tmp_path / "checkpoint.pt"
    recipe = Recipe(epochs=3, batch_size=5, lr=1e30, momentum=0, schedule="constant")
    with pytest.raises(DivergedError):
        train(plain(), TRAIN, VAL, recipe, 0, checkpoint=path)
    assert not path.exists()
