"""Files between stages: what is written comes back bit for bit, and a wrong file is named."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from gwprune import models
from gwprune.jobs.artifacts import (
    ArtifactError,
    load_network,
    load_probe,
    load_ranking,
    save_network,
    save_probe,
    save_ranking,
)
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import Ranking
from gwprune.spectral.lanczos import Jacobi
from gwprune.spectral.spectrum import ProbeSpectrum
from gwprune.storage.states import load_state

ABOUT = {"name": "fc", "options": {"hidden": [5], "batch_norm": True}, "input_shape": [1, 4, 4], "classes": 3}


def network(seed: int = 0):
    """A small network with buffers (of batch normalisation) that have moved."""
    torch.manual_seed(seed)
    model = models.build("fc", (1, 4, 4), 3, **ABOUT["options"])
    model.train()
    model(torch.randn(8, 1, 4, 4))
    return model


def probe() -> ProbeSpectrum:
    rng = np.random.default_rng(0)
    return ProbeSpectrum(Jacobi(rng.normal(size=6), rng.random(6)), 40, 31, True)


def assert_same_probe(found: ProbeSpectrum, expected: ProbeSpectrum) -> None:
    np.testing.assert_array_equal(found.jacobi.alpha, expected.jacobi.alpha)
    np.testing.assert_array_equal(found.jacobi.beta, expected.jacobi.beta)
    for name in ("dimension", "active", "semidefinite", "precision", "roundings"):
        assert getattr(found, name) == getattr(expected, name)
    np.testing.assert_array_equal(found.eigenvalues, expected.eigenvalues)


# --- networks -----------------------------------------------------------------------------------------------


def test_a_network_comes_back_bit_for_bit_in_eval_mode(tmp_path):
    model = network()
    save_network(tmp_path / "n.pt", model, ABOUT)
    found = load_network(tmp_path / "n.pt")
    assert not any(module.training for module in found.modules())
    expected = model.state_dict()
    assert list(found.state_dict()) == list(expected)
    for name, tensor in found.state_dict().items():
        assert tensor.dtype == expected[name].dtype
        assert tensor.numpy().tobytes() == expected[name].detach().numpy().tobytes(), name
    inputs = torch.randn(7, 1, 4, 4)
    assert torch.equal(found(inputs), model.eval()(inputs))


def test_saving_does_not_change_the_network(tmp_path):
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_network(tmp_path / "n.pt", model, ABOUT)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_loading_draws_no_weights_into_the_result(tmp_path):
    save_network(tmp_path / "n.pt", network(), ABOUT)
    torch.manual_seed(1)
    first = load_network(tmp_path / "n.pt").state_dict()
    torch.manual_seed(2)
    again = load_network(tmp_path / "n.pt").state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def misfit(tmp_path, state: dict) -> str:
    path = tmp_path / "other.pt"
    torch.save({"gwprune": "network", "format": 1, "description": ABOUT, "state": state}, path)
    with pytest.raises(ArtifactError) as caught:
        load_network(path)
    assert str(caught.value).startswith(f"{path} does not fit the network Sequential: ")
    return str(caught.value)


def test_a_missing_tensor_is_named(tmp_path):
    state = network().state_dict()
    del state["1.weight"]
    assert misfit(tmp_path, state).endswith(": 1.weight is missing")


def test_an_extra_tensor_is_named(tmp_path):
    state = {**network().state_dict(), "9.weight": torch.zeros(2)}
    assert misfit(tmp_path, state).endswith(": 9.weight is not part of the network")


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path):
    state = {**network().state_dict(), "1.weight": torch.zeros(5, 17)}
    assert misfit(tmp_path, state).endswith(": 1.weight has shape (5, 17), the network (5, 16)")


def test_many_misfits_are_counted(tmp_path):
    total = len(network().state_dict())
    assert misfit(tmp_path, {}).endswith(f"and {total - 3} more")


def test_a_misfit_leaves_the_network_as_it_was():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {**network(1).state_dict(), "1.bias": torch.zeros(6)}
    with pytest.raises(ArtifactError, match=r"^here does not fit.*1\.bias"):
        load_state(model, state, "here")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_network_that_cannot_be_built_any_more_names_the_file(tmp_path):
    path = tmp_path / "n.pt"
    save_network(path, network(), {**ABOUT, "name": "gwprune.models.fc:gone"})
    with pytest.raises(ArtifactError, match=re.escape(str(path))):
        load_network(path)


LOADERS = {
    "network": load_network,
    "ranking": lambda path, **more: load_ranking(path, 4, **more),
    "spectrum": load_probe,
}


def saved(kind: str, path, **more) -> None:
    if kind == "network":
        save_network(path, network(), ABOUT, **more)
    elif kind == "ranking":
        save_ranking(path, Ranking(torch.tensor([2, 0, 3, 1])), "magnitude", **more)
    else:
        save_probe(path, probe(), **more)


@pytest.mark.parametrize("kind", LOADERS)
def test_a_missing_file_is_named(tmp_path, kind):
    with pytest.raises(ArtifactError, match=re.escape(str(tmp_path / "x"))):
        LOADERS[kind](tmp_path / "x")


@pytest.mark.parametrize("kind", LOADERS)
def test_a_file_that_was_cut_anywhere_is_named(tmp_path, kind):
    path = tmp_path / "x"
    saved(kind, path)
    LOADERS[kind](path)
    content = path.read_bytes()
    for length in [0, 1, 4, 30, *range(50, len(content), len(content) // 12), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=rf"{re.escape(str(path))}\b.* is no complete {kind} file"):
            LOADERS[kind](path)


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("foreign", ["text", "list", "state dict", "npy", "npz"])
def test_a_foreign_file_is_named(tmp_path, kind, foreign):
    path = tmp_path / "x"
    with open(path, "wb") as stream:
        if foreign == "text":
            stream.write(b"run,seed\na,0\n")
        elif foreign == "list":
            torch.save([1, 2], stream)
        elif foreign == "state dict":
            torch.save(network().state_dict(), stream)
        elif foreign == "npy":
            np.save(stream, np.zeros(3))
        else:
            np.savez(stream, a=np.zeros(3))
    with pytest.raises(ArtifactError, match=re.escape(str(path))):
        LOADERS[kind](path)


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("other", LOADERS)
def test_the_file_of_another_stage_is_named(tmp_path, kind, other):
    path = tmp_path / "x"
    saved(other, path)
    if kind == other:
        LOADERS[kind](path)
        return
    with pytest.raises(ArtifactError, match=re.escape(str(path))):
        LOADERS[kind](path)


@pytest.mark.parametrize("kind", ["network", "ranking"])
def test_a_file_of_another_format_is_named_with_both_formats(tmp_path, kind):
    path = tmp_path / "x"
    saved(kind, path)
    torch.save({**torch.load(path, weights_only=True), "format": 7}, path)
    with pytest.raises(ArtifactError, match=re.escape(f"{path} has format 7, this version reads 1")):
        LOADERS[kind](path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "x"

    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"gwprune": "network", "format": 1, "state": Payload()}, path)
    with pytest.raises(ArtifactError, match=re.escape(str(path))):
        load_network(path)
    assert not (tmp_path / "executed").exists()


# --- rankings -----------------------------------------------------------------------------------------------


def test_a_ranking_comes_back(tmp_path):
    ranks = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).int()
    save_ranking(tmp_path / "r.pt", Ranking(ranks), "random")
    found = load_ranking(tmp_path / "r.pt", 1000)
    assert torch.equal(found.ranks, ranks)
    assert found.ranks.dtype == torch.int32


def test_the_ranking_of_another_network_is_named_with_both_sizes(tmp_path):
    path = tmp_path / "r.pt"
    save_ranking(path, Ranking(torch.arange(12)), "magnitude")
    with pytest.raises(ArtifactError, match=re.escape(f"{path} ranks 12 weights, the network has 13 prunable ones")):
        load_ranking(path, 13)


def test_a_ranking_of_other_layers_of_the_same_size_or_of_another_method_is_refused(tmp_path):
    path = tmp_path / "ranking.pt"
    networks = [torch.nn.Linear(6, 2), torch.nn.Linear(4, 3)]
    here, there = (PrunableSet(network).signature for network in networks)
    save_ranking(path, Ranking(torch.arange(12)), "magnitude", here)
    assert load_ranking(path, 12, here, "magnitude").dimension == 12
    with pytest.raises(ArtifactError, match=r"ranking\.pt ranks the weights of another network"):
        load_ranking(path, 12, there, "magnitude")
    with pytest.raises(ArtifactError, match="by 'magnitude', not by 'random'"):
        load_ranking(path, 12, here, "random")


def test_a_ranking_file_that_holds_no_permutation_is_named(tmp_path):
    path = tmp_path / "r.pt"
    torch.save({"gwprune": "ranking", "format": 1, "method": "random", "ranks": torch.tensor([0, 0, 2])}, path)
    with pytest.raises(ArtifactError, match=re.escape(str(path))):
        load_ranking(path, 3)


# --- whose file it is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOADERS)
def test_a_file_is_taken_by_its_owner_alone(tmp_path, kind):
    path = tmp_path / "x"
    saved(kind, path, owner={"run": "a", "seed": 0, "probe": 3})
    LOADERS[kind](path)
    LOADERS[kind](path, owner={"run": "a", "seed": 0})
    for other in ({"run": "a", "seed": 1}, {"run": "b", "seed": 0}):
        said = f"{path} belongs to run a, seed 0, probe 3; expected run {other['run']}, seed {other['seed']}."
        with pytest.raises(ArtifactError, match=re.escape(said)):
            LOADERS[kind](path, owner=other)


@pytest.mark.parametrize("kind", LOADERS)
def test_a_file_that_does_not_say_whose_it_is_is_taken_with_a_warning(tmp_path, kind, caplog):
    saved(kind, tmp_path / "x")
    LOADERS[kind](tmp_path / "x", owner={"run": "a", "seed": 0})
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path / 'x'} does not say whose it is")
    assert message.endswith("taken for run a, seed 0")


# --- probes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "known",
    [
        probe(),
        ProbeSpectrum(Jacobi(np.zeros(1), np.zeros(1)), 7, 0),
        ProbeSpectrum(Jacobi(np.ones(3), np.ones(3)), 9, 9, precision=1e-7, roundings=150.0),
        ProbeSpectrum(Jacobi(np.ones(1), np.ones(1)), 9, 3, eigenvalues=np.array([-1.0, 0.5, 2.0])),
    ],
    ids=["semidefinite", "nothing active", "all active", "eigenvalues"],
)
def test_a_probe_comes_back_bit_for_bit(tmp_path, known):
    save_probe(tmp_path / "p.npz", known)
    assert_same_probe(load_probe(tmp_path / "p.npz"), known)


def test_a_probe_file_that_tells_no_error_of_products_was_written_when_it_was_assumed(tmp_path):
    save_probe(tmp_path / "p.npz", probe())
    with np.load(tmp_path / "p.npz") as values:
        kept = {name: values[name] for name in values if name != "roundings"}
    np.savez(tmp_path / "old.npz", **kept)
    assert_same_probe(load_probe(tmp_path / "old.npz"), probe())
    assert load_probe(tmp_path / "old.npz").roundings == 32


def test_the_name_of_a_probe_file_is_kept_without_a_suffix(tmp_path):
    save_probe(tmp_path / "probe", probe())
    assert [path.name for path in tmp_path.iterdir()] == ["probe"]


def test_a_probe_file_with_a_flipped_byte_is_named_or_holds_the_same_numbers(tmp_path):
    path = tmp_path / "p.npz"
    save_probe(path, probe())
    content = path.read_bytes()
    refused = 0
    positions = range(1, len(content), 3)
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            assert_same_probe(load_probe(path), probe())
        except ArtifactError as error:
            assert str(path) in str(error)  # noqa: PT017 - either outcome is right
            refused += 1
    assert refused > len(positions) / 2


def test_a_network_file_with_a_flipped_byte_in_a_weight_is_named(tmp_path):
    path = tmp_path / "n.pt"
    model = network()
    save_network(path, model, ABOUT)
    content = bytearray(path.read_bytes())
    content[content.index(model[1].weight.detach().numpy().tobytes()) + 3] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=re.escape(str(path))):
        load_network(path)


def test_a_probe_file_of_another_format_is_named(tmp_path):
    path = tmp_path / "p.npz"
    save_probe(path, probe())
    with np.load(path) as stored:
        entries = dict(stored)
    with open(path, "wb") as stream:
        np.savez(stream, **{**entries, "format": np.array(1)})
    with pytest.raises(ArtifactError, match=re.escape(f"{path} has format 1, this version reads 2")):
        load_probe(path)
