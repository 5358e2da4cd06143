"""Training that is interrupted: it ends in the same bits, and never goes on from a checkpoint of another one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gwprune.datasets import DeviceSplit
from gwprune.training.train import Recipe, train

from .helpers_training import (
    RECIPE,
    TRAIN,
    VAL,
    StopError,
    network,
    random_mask,
    split,
    state,
    stop_after,
    without_time,
)


def interrupt(path, epoch: int = 2, recipe: Recipe = RECIPE, seed: int = 3, **more) -> None:
    """Leave the checkpoint of a training that stopped after ``epoch`` epochs."""
    with pytest.raises(StopError):
        train(network(), TRAIN, VAL, recipe, seed, checkpoint=path, progress=stop_after(epoch), **more)
    assert path.exists()


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_an_interrupted_training_ends_as_if_it_had_not_been_interrupted(tmp_path, epoch, masked):
    recipe = replace(RECIPE, warmup_epochs=1.5, nesterov=True, augmentation="flip")
    more = {"mask": random_mask(network())} if masked else {}
    undisturbed = network()
    expected = train(undisturbed, TRAIN, VAL, recipe, 3, **more)
    path = tmp_path / "checkpoint.pt"
    interrupt(path, epoch, recipe, **more)
    resumed, calls = network(), []
    records = train(resumed, TRAIN, VAL, recipe, 3, checkpoint=path, progress=calls.append, **more)
    assert [record.epoch for record in calls] == list(range(epoch + 1, 5))
    assert without_time(records) == without_time(expected)
    assert state(resumed) == state(undisturbed)


def test_a_training_can_be_interrupted_twice(tmp_path):
    undisturbed = network()
    expected = train(undisturbed, TRAIN, VAL, RECIPE, 3)
    path = tmp_path / "checkpoint.pt"
    interrupt(path, 1)
    interrupt(path, 3)
    resumed = network()
    records = train(resumed, TRAIN, VAL, RECIPE, 3, checkpoint=path)
    assert without_time(records) == without_time(expected)
    assert state(resumed) == state(undisturbed)


def test_a_checkpoint_leaves_training_as_it_is_without_one(tmp_path):
    with_file, without = network(), network()
    train(with_file, TRAIN, VAL, RECIPE, 3, checkpoint=tmp_path / "a/checkpoint.pt")
    train(without, TRAIN, VAL, RECIPE, 3)
    assert state(with_file) == state(without)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["checkpoint.pt"]


def other_labels() -> DeviceSplit:
    return DeviceSplit(TRAIN.images, TRAIN.labels.flip(0), [0.5], [0.3])


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": replace(RECIPE, lr=0.05)},
        {"recipe": replace(RECIPE, epochs=5)},
        {"recipe": replace(RECIPE, l1=0.0)},
        {"seed": 4},
        {"train": split(26, 7)},
        {"train": other_labels()},
        {"model": 1},
        {"mask": random_mask(network(), 1)},
        {"mask": None},
        {"first_epoch": 1},
        {"last_epoch": 3},
        {"momentum": {name: torch.ones_like(parameter) for name, parameter in network().named_parameters()}},
    ],
    ids=["rate", "epochs", "l1", "seed", "images", "labels", "start", "mask", "no mask", "first", "last", "momentum"],
)
def test_the_checkpoint_of_another_training_is_set_aside_with_a_warning(tmp_path, change, caplog):
    path = tmp_path / "checkpoint.pt"
    interrupt(path, mask=random_mask(network()))
    mine = {"recipe": RECIPE, "seed": 3, "train": TRAIN, "model": 0, "mask": random_mask(network()), **change}
    more = {key: mine[key] for key in ("mask", "first_epoch", "last_epoch") if key in mine}

    def run(checkpoint):
        model, calls = network(mine["model"]), []
        train(
            model,
            mine["train"],
            VAL,
            mine["recipe"],
            mine["seed"],
            checkpoint=checkpoint,
            progress=calls.append,
            momentum=dict(mine.get("momentum", {})),
            **more,
        )
        return state(model), [record.epoch for record in calls]

    expected = run(None)
    assert not caplog.messages
    assert run(path) == expected
    assert caplog.messages == [
        f"checkpoint {path} is set aside, and its work starts over: it belongs to other settings, inputs or versions"
    ]


@pytest.mark.parametrize("content", ["nothing", "half", "text", "list", "empty dictionary"])
def test_a_corrupt_checkpoint_is_set_aside_with_a_warning(tmp_path, content, caplog):
    path = tmp_path / "checkpoint.pt"
    interrupt(path)
    if content == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content in ("nothing", "text"):
        path.write_bytes(b"" if content == "nothing" else b"no checkpoint\n")
    else:
        torch.save([1, 2] if content == "list" else {}, path)
    model, undisturbed, calls = network(), network(), []
    train(model, TRAIN, VAL, RECIPE, 3, checkpoint=path, progress=calls.append)
    train(undisturbed, TRAIN, VAL, RECIPE, 3)
    assert [record.epoch for record in calls] == [1, 2, 3, 4]
    assert state(model) == state(undisturbed)
    assert caplog.messages[0].startswith(f"checkpoint {path} is set aside")
