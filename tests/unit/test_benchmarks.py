"""The benchmarks of products and training: counts by hand, checks, and a tiny run of the whole programs."""

from __future__ import annotations

import copy
import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks import contest, end_to_end, limits, peers, products, training
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


def test_networks_that_were_timed_before_stay_with_their_environment(tmp_path, quick):
    """An interrupted or partial run adds to the file; files of earlier versions had one environment for all."""
    record = {"environment": {"threads": 7}, "networks": {"fc5": {"a": 1}, "vit": {"environment": {"threads": 2}}}}
    (tmp_path / "products.json").write_text(json.dumps(record))
    assert products.earlier(tmp_path / "products.json") == {
        "fc5": {"environment": {"threads": 7}, "a": 1},
        "vit": {"environment": {"threads": 2}},
    }
    assert products.earlier(tmp_path / "none.json") == {}
    assert all(own["environment"]["threads"] > 0 for own in quick[0]["networks"].values())


def test_goals_of_a_transformer_are_those_that_were_asked():
    def seconds(first: float, later: float) -> dict:
        return {"first": first, "single": first + 1, "run": later, "relative_error": 0.0}

    result = {
        "contenders": {
            "gwprune": seconds(2.3, 1.2),
            "double_backward": seconds(2.0, 2.0),
            "pyhessian_one_batch": seconds(4.0, 1.5),
            "jvp_of_grad": {"error": "not installed"},
        },
        "limit": {"scratch": 1.0},
        "setup_in_products": 4.5,
        "block": None,
    }
    rows = {what: (value, goal) for _, what, value, goal in products.goals("vit", result)}
    assert rows["first product / double backward's"] == (pytest.approx(1.15), 1.15)
    assert rows["one of 128 / that of the fastest peer (pyhessian_one_batch)"] == (pytest.approx(0.8), 0.7)
    assert rows["set-up of a prediction with all checks / a later product"] == (4.5, 6.0)
    assert "first product / double backward's" not in {row[1] for row in products.goals("fc5", result)}


# --- from a network to its threshold ------------------------------------------------------------------------


def test_the_estimate_settles_where_it_stays():
    estimates = {8: 0.95, 16: 0.90, 24: 0.905, 32: 0.90, 40: 0.899}
    assert end_to_end.settled(estimates, 0.002) == 32
    assert end_to_end.settled(estimates, 0.02) == 16
    assert end_to_end.settled(estimates, 1.0) == 8


def test_rounds_go_on_where_they_were_and_ratios_are_those_within_a_round(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = models.build("fc", (1, 8, 8), 10, hidden=[12])
    data = torch.randn(64, 1, 8, 8), torch.randint(10, (64,))
    unit = tmp_path / "results" / "runs" / "fc" / "seed0"
    unit.mkdir(parents=True)
    (unit / "dense.json").write_text(json.dumps({"l1": 0.1, "batch_std": 0.05}))
    (tmp_path / "results" / "data").mkdir()
    (tmp_path / "results" / "data" / "some.pt").touch()
    split = SimpleNamespace(subset=lambda samples, seed: SimpleNamespace(as_tensors=lambda: data))
    monkeypatch.setattr(end_to_end, "load_network", lambda path: copy.deepcopy(model))
    monkeypatch.setattr(end_to_end.datasets, "load", lambda path: None)
    monkeypatch.setattr(end_to_end.DeviceSplit, "from_data", lambda *arguments: split)
    monkeypatch.setattr(end_to_end, "STEPS", 40)
    densities = []
    monkeypatch.setattr(end_to_end, "pyhessian_density", lambda *arguments: densities.append(arguments))
    output = tmp_path / "out"
    arguments = ["--results", str(tmp_path / "results"), "--output", str(output), "--longest", "40"]
    end_to_end.main([*arguments, "--rounds", "0"])
    first = json.loads((output / "end_to_end.json").read_text())
    assert (first["rounds"], len(densities)) == ([], 0)
    assert len(first["convergence"]["estimates"]) == 5
    for rounds in (1, 2):
        end_to_end.main([*arguments, "--rounds", str(rounds)])
    record = json.loads((output / "end_to_end.json").read_text())
    assert record["convergence"] == first["convergence"]
    assert len(record["rounds"]) == len(densities) == 2
    estimate = record["rounds"][0]["ways"]["estimate"]
    assert estimate["steps"] == first["convergence"]["settled"]
    assert estimate["products"] > estimate["steps"]  # those of the set-up and of `quadratic` count
    assert estimate["lower"] <= estimate["estimate"] <= estimate["upper"]
    seconds = [(1.0, 2.0), (3.0, 3.0), (4.0, 1.0)]
    found = {key: 0.5 for key in ("estimate", "lower", "upper")} | {"steps": 1, "products": 1}
    turns = [
        {
            "ways": {
                end_to_end.RIVAL: found | {"seconds": b},
                "estimate": found | {"seconds": a},
                "interval": found | {"seconds": a},
            }
        }
        for a, b in seconds
    ]
    assert end_to_end.table(turns)[0]["/ PyHessian"] == "1.00"
    assert end_to_end.table(turns)[0]["seconds"] == "3"


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
