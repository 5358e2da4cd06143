"""The benchmarks of products and training: counts by hand, checks, and a tiny run of the whole programs."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from benchmarks import contest, limits, peers, products, training
from gwprune import models


def layers_of(model: nn.Module, *shape: int) -> list[limits.Layer]:
    peers.prepare(model)
    return limits.layers_of(model, torch.zeros(1, *shape))


# --- the arithmetic limit -----------------------------------------------------------------------------------


def test_counts_of_fc5_by_hand():
    layers = layers_of(models.build("fc5", (1, 28, 28), 10), 1, 28, 28)
    first, others = 784 * 1000, 1000 * 600 + 600 * 300 + 300 * 100 + 100 * 10
    assert [layer.first for layer in layers] == [True, False, False, False, False]
    assert limits.multiply_adds(layers, "forward") == first + others == 1_595_000
    assert limits.multiply_adds(layers, "scratch") == 3 * first + 8 * others
    assert limits.multiply_adds(layers, "shared") == 2 * first + 6 * others


def test_counts_of_a_convolutional_network_by_hand():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, groups=2),
        nn.Flatten(),
        nn.Linear(6 * 3 * 3, 5),
    )
    layers = layers_of(model, 2, 8, 8)
    # Positions x output channels x input channels of the group x kernel.
    counts = [8 * 8 * 4 * 2 * 9, 3 * 3 * 6 * 2 * 9, 54 * 5]
    assert [layer.multiply_adds for layer in layers] == counts
    assert limits.multiply_adds(layers, "scratch") == 3 * counts[0] + 8 * (counts[1] + counts[2])
    assert limits.multiply_adds(layers, "shared") == 2 * counts[0] + 6 * (counts[1] + counts[2])


def test_both_branches_of_a_residual_network_count_and_only_the_stem_is_first():
    layers = layers_of(models.build("resnet18", (3, 32, 32), 10), 3, 32, 32)
    assert [layer.name for layer in layers if layer.first] == ["conv1"]
    assert len(layers) == 21  # 17 convolutions, 3 projections, 1 linear layer
    assert limits.multiply_adds(layers, "forward") == 555_422_720  # 0.56 G, as published for this network


def test_limit_divides_the_counts_by_the_measured_rates(monkeypatch):
    """With one second per pass, a layer's rate is its multiplications: each pass takes samples / batch seconds."""
    monkeypatch.setattr(limits, "timed", lambda call: (1.0, call()))
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 2 * 2, 5))
    peaks = limits.Peaks(layers_of(model, 2, 4, 4), [2, 4])
    peaks.measure()
    seconds = limits.limits(peaks, 8)
    assert seconds["forward"] == pytest.approx((1 + 1) * 8 / 4)
    assert seconds["scratch"] == pytest.approx((3 + 8) * 8 / 4)
    assert seconds["shared"] == pytest.approx((2 + 6) * 8 / 4)


def test_transposed_convolutions_are_refused():
    with pytest.raises(TypeError, match="0: transposed"):
        layers_of(nn.Sequential(nn.ConvTranspose2d(2, 3, 2)), 2, 4, 4)


# --- products -----------------------------------------------------------------------------------------------


def test_batches_are_equal_or_refused():
    inputs, targets = torch.zeros(10, 2), torch.zeros(10)
    assert [len(x) for x, _ in peers.split(inputs, targets, 5)] == [5, 5]
    with pytest.raises(ValueError, match="4 does not divide 10"):
        peers.split(inputs, targets, 4)


def test_a_wrong_product_stops_the_program_and_is_named(monkeypatch, tmp_path, capsys):
    def slightly_wrong(*arguments):
        product = peers.double_backward(*arguments)
        return lambda vector: 1.002 * product(vector)

    right = peers.CONTENDERS["double_backward"]
    few = {"double_backward": right, "wrong": dataclasses.replace(right, make=slightly_wrong)}
    monkeypatch.setattr(contest, "CONTENDERS", few)
    assert products.main(["--quick", "--output", str(tmp_path)]) == 1
    assert "FAILED: quick_fc: the product of wrong differs by 0.002" in capsys.readouterr().err


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[dict, str]:
    """What a tiny run of the whole program writes, with a contender that cannot run."""

    def broken(*arguments):
        raise RuntimeError("no such kernel")

    folder = tmp_path_factory.mktemp("quick")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(peers.CONTENDERS, "broken", peers.Contender(broken))
        assert products.main(["--quick", "--rounds", "1", "--output", str(folder)]) == 0
    return json.loads((folder / "products.json").read_text()), (folder / "products.md").read_text()


@pytest.mark.parametrize("network", products.QUICK)
@pytest.mark.parametrize("name", peers.CONTENDERS)
def test_every_contender_agrees_and_is_timed(quick, network: str, name: str):
    contender, figures = peers.CONTENDERS[name], quick[0]["networks"][network]["contenders"][name]
    if not contender.version:
        assert figures["error"] == "not installed"
        pytest.skip(f"{contender.distribution} is not installed")
    assert "error" not in figures, figures
    assert figures["run"] == pytest.approx((figures["setup"] + figures["first"] + 127 * figures["later"]) / 128)
    if contender.exact:
        assert figures["relative_error"] <= contest.TOLERANCE


def test_quick_run_writes_limits_blocks_environment_and_what_failed(quick):
    record, text = quick
    assert {"torch", "cpu", "threads", "git_commit"} <= set(record["environment"])
    assert set(record["networks"]) == set(products.QUICK)
    for network in record["networks"].values():
        assert 0 < network["limit"]["forward"] < network["limit"]["shared"] < network["limit"]["scratch"]
        assert network["contenders"]["broken"]["error"] == "RuntimeError: no such kernel"
    assert set(record["networks"]["quick_fc"]["block"]) == {"kept", "fresh", "rebuilt"}
    assert all(name in text for name in (*peers.CONTENDERS, "limit, primal passes shared", "no such kernel"))


# --- training -----------------------------------------------------------------------------------------------


def test_quick_run_of_training_times_every_way_and_profiles_it(tmp_path):
    training.main(["--quick", "--repeats", "1", "--threads", "1", "--output", str(tmp_path)])
    record = json.loads((tmp_path / "training.json").read_text())["threads"]["1"]
    text = (tmp_path / "training.md").read_text()
    assert len(record["seconds"]) == 5
    for name, turns in record["seconds"].items():
        assert len(turns) == 1
        assert name in text
        assert 0 < record["profiles"][name]["products"] < 1
        assert not set(training.PRODUCTS) & set(record["profiles"][name]["others"])


def test_the_ways_to_train_take_the_same_step():
    """A single batch: all ways see the same images, in whatever order."""
    split, _ = training.images(128, True)
    networks = []

    def network() -> nn.Module:
        torch.manual_seed(0)
        networks.append(models.build("fc", (1, 28, 28), 10, hidden=[32]))
        return networks[-1]

    for epoch in training.ways(split, network).values():
        epoch()
    first, *others = (model.state_dict() for model in networks)
    assert len(others) == 4
    for other in others:
        for name, tensor in first.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
