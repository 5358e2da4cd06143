"""The benchmark of products: its counts by hand, its checks, and a tiny run of the whole program."""

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


def test_counts_of_fc5_by_hand():
    layers = layers_of(models.build("fc5", (1, 28, 28), 10), 1, 28, 28)
    first, others = 784 * 1000, 1000 * 600 + 600 * 300 + 300 * 100 + 100 * 10
    assert [layer.first for layer in layers] == [True, False, False, False, False]
    assert limits.multiply_adds(layers, "forward") == first + others == 1_595_000
    assert limits.multiply_adds(layers, "scratch") == 3 * first + 8 * others
    assert limits.multiply_adds(layers, "shared") == 2 * first + 6 * others
    assert limits.multiply_adds(layers, "scratch") / 1_595_000 == pytest.approx(5.542, abs=1e-3)


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
    """With one second per primitive, a layer's rate is its multiplications: each pass takes samples / batch seconds."""
    monkeypatch.setattr(limits, "_seconds", lambda call: call() is None or 1.0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 2 * 2, 5))
    peaks = limits.Peaks(layers_of(model, 2, 4, 4), [2, 4])
    peaks.measure()
    found = limits.limits(peaks, 8)
    assert found["forward"] == pytest.approx((1 + 1) * 8 / 4)
    assert found["scratch"] == found["scratch_own_rates"] == pytest.approx((3 + 8) * 8 / 4)
    assert found["shared"] == found["shared_own_rates"] == pytest.approx((2 + 6) * 8 / 4)


def test_transposed_convolutions_are_refused():
    with pytest.raises(TypeError, match="0: transposed"):
        layers_of(nn.Sequential(nn.ConvTranspose2d(2, 3, 2)), 2, 4, 4)


def test_batches_are_equal_or_refused():
    inputs, targets = torch.zeros(10, 2), torch.zeros(10)
    assert [len(x) for x, _ in peers.split(inputs, targets, 5)] == [5, 5]
    with pytest.raises(ValueError, match="4 does not divide 10"):
        peers.split(inputs, targets, 4)


def quick_case() -> contest.Case:
    torch.manual_seed(0)
    return products.cases(["quick_fc"], None)[0]()


def test_a_wrong_product_stops_the_program_and_is_named(monkeypatch, tmp_path, capsys):
    def slightly_wrong(*arguments):
        product = peers.double_backward(*arguments)
        return lambda vector: 1.002 * product(vector)

    wrong = dataclasses.replace(peers.CONTENDERS["double_backward"], make=slightly_wrong)
    monkeypatch.setitem(contest.CONTENDERS, "wrong", wrong)
    with pytest.raises(contest.Disagreement, match="wrong differs by 0.002"):
        contest.check_agreement(quick_case(), {"wrong": wrong})
    assert products.main(["--quick", "--no-docs", "--output", str(tmp_path)]) == 1
    assert "wrong" in capsys.readouterr().err


def test_a_contender_that_cannot_run_is_reported(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no such kernel")

    few = {"gwprune": peers.CONTENDERS["gwprune"], "broken": peers.Contender(broken)}
    monkeypatch.setattr(contest, "CONTENDERS", {**few, "double_backward": peers.CONTENDERS["double_backward"]})
    monkeypatch.setattr(products, "CONTENDERS", contest.CONTENDERS)
    result = contest.run(quick_case(), 1, 8, lambda line: None)
    assert result["contenders"]["broken"]["error"] == "RuntimeError: no such kernel"
    assert result["contenders"]["gwprune"]["first"] > 0
    assert "no such kernel" in products.network_table(result)


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> dict:
    """What a tiny run of the whole program writes."""
    folder = tmp_path_factory.mktemp("quick")
    assert products.main(["--quick", "--rounds", "1", "--no-docs", "--output", str(folder)]) == 0
    return json.loads((folder / "products.json").read_text())


@pytest.mark.parametrize("network", products.QUICK)
@pytest.mark.parametrize("name", peers.CONTENDERS)
def test_every_contender_agrees_and_is_timed(quick, network: str, name: str):
    contender, figures = peers.CONTENDERS[name], quick["networks"][network]["contenders"][name]
    if not contender.version:
        assert figures["error"] == "not installed"
        pytest.skip(f"{contender.distribution} is not installed")
    assert "error" not in figures, figures
    assert figures["run"] == pytest.approx((figures["setup"] + figures["first"] + 127 * figures["later"]) / 128)
    if contender.exact:
        assert figures["relative_error"] <= contest.TOLERANCE


def test_quick_run_writes_limits_blocks_and_environment(quick):
    assert {"torch", "cpu", "threads", "git_commit"} <= set(quick["environment"])
    assert set(quick["networks"]) == set(products.QUICK)
    for network in quick["networks"].values():
        assert 0 < network["limit"]["forward"] < network["limit"]["shared"] < network["limit"]["scratch"]
    assert set(quick["networks"]["quick_fc"]["block"]) == {"kept", "fresh", "rebuilt"}
    text = products.section(quick)
    assert all(name in text for name in (*peers.CONTENDERS, "limit, primal passes shared"))


def test_quick_run_of_training_times_every_way_and_profiles_it(tmp_path):
    training.main(["--quick", "--repeats", "2", "--threads", "1", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "training.json").read_text())["threads"]["1"]
    text = (tmp_path / "training.md").read_text()
    assert len(found["seconds"]) == 5
    for name, turns in found["seconds"].items():
        assert len(turns) == 2
        assert name in text
        assert 0 < found["profiles"][name]["products"] < 1
        assert not set(training.PRODUCTS) & set(found["profiles"][name]["others"])


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
