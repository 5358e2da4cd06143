"""A network of one's own, pruned: exact masks, patterns, files, and what that gains."""

from __future__ import annotations

import copy
import itertools
import json
import math
import zlib

import pytest
import safetensors
import torch
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.nn import functional as F

from gwprune.measured import measure_loss, measure_threshold
from gwprune.pruned import load_mask, prune, save_pruned
from gwprune.storage.owners import ArtifactError
from gwprune.storage.states import load_state, read_state

from .helpers_networks import Net, labels, normal
from .helpers_spectra import digits


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(8)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, stride=2),
            nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5),
        )  # fmt: skip


WEIGHTS = ["0.weight", "3.weight", "5.weight", "8.weight"]


def flat(model: nn.Module) -> Tensor:
    return torch.cat([model.get_parameter(name).detach().reshape(-1) for name in WEIGHTS])


@pytest.mark.parametrize("sparsity", [0, 0.07, 0.5, 1 / 3, 0.999, 1])
def test_exactly_the_smallest_weights_go_and_nothing_else_changes(sparsity):
    model, dense = net(), net()
    mask = prune(model, sparsity)
    before, after = flat(dense), flat(model)
    count = math.ceil(sparsity * len(before) - 1e-9)
    assert mask.removed == count == int((after == 0).sum())
    assert mask.sparsity == count / len(before)
    order = before.abs().argsort(stable=True)
    assert bool((after[order[:count]] == 0).all())
    assert torch.equal(after[order[count:]], before[order[count:]])
    others = set(dense.state_dict()) - set(WEIGHTS)
    assert all(torch.equal(model.state_dict()[name], dense.state_dict()[name]) for name in others)
    assert str(mask).splitlines()[1].split() == ["all", f"{len(before):,}", f"{mask.sparsity:.4f}"]
    assert mask.layers == pytest.approx(
        {name: float((model.get_parameter(name) == 0).float().mean()) for name in WEIGHTS}
    )


def test_equal_weights_go_by_index_and_masks_of_two_sparsities_are_nested():
    model = nn.Linear(4, 2, bias=False)
    nn.init.constant_(model.weight, -0.5)
    assert prune(model, 0.4).kept["weight"].reshape(-1).tolist() == [False] * 4 + [True] * 4
    masks = [prune(net(), sparsity, "random", seed=3).kept for sparsity in (0.3, 0.6, 0.61)]
    for wide, narrow in zip(masks[1:], masks, strict=False):
        assert all(bool((narrow[name] | ~wide[name]).all()) for name in WEIGHTS)


def groups_of(weight: Tensor, axis: int, many: int):
    """Every group of a pattern as (indices, values), by walking over the tensor."""
    lines = weight.movedim(axis, -1)
    for position in itertools.product(*map(range, lines.shape[:-1])):
        line = lines[position]
        for start in range(0, len(line), many):
            yield line[start : start + many]


@pytest.mark.parametrize(("pattern", "unfit"), [("2:4", ["0.weight", "5.weight"]), ("1:2", ["0.weight", "5.weight"])])
def test_a_pattern_keeps_the_largest_of_every_group_along_the_inputs(pattern, unfit):
    few, many = map(int, pattern.split(":"))
    model, dense = net(), net()
    mask = prune(model, pattern=pattern)
    assert list(mask.unfit) == unfit  # 3 channels, of which M divides none, and groups of 3
    for name, axis in (("3.weight", 0), ("8.weight", 1)):
        assert mask.layers[name] == 1 - few / many
        before, after = dense.get_parameter(name).detach(), model.get_parameter(name).detach()
        for old, new in zip(groups_of(before, axis, many), groups_of(after, axis, many), strict=True):
            kept = old.abs().argsort(descending=True)[:few]
            assert new.nonzero().flatten().tolist() == sorted(kept.tolist())
            assert torch.equal(new[kept], old[kept])
    assert all(mask.layers[name] == 0 and torch.equal(*weights(name, model, dense)) for name in unfit)
    assert 0 < mask.sparsity < 1 - few / many


def weights(name: str, *models: nn.Module) -> list[Tensor]:
    return [model.get_parameter(name) for model in models]


class Conv1D(nn.Module):
    """As that of Hugging Face: inputs first."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(normal(4, 6, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def test_chosen_weights_and_patterns_of_other_modules():
    model = Net(
        lambda net, x: net.own(net.lstm(net.attention(x, x, x)[0])[0]) @ net.expert,
        attention=nn.MultiheadAttention(4, 2, batch_first=True), lstm=nn.LSTM(4, 4, batch_first=True), own=Conv1D(),
    ).double()  # fmt: skip
    model.expert = nn.Parameter(normal(6, 8, seed=2))
    assert model(normal(2, 3, 4)).shape == (2, 3, 8)
    dense = copy.deepcopy(model)
    mask = prune(model, pattern="1:2", prunable="*")
    axes = {"own.weight": 0} | {f"lstm.weight_{end}": 1 for end in ("ih_l0", "hh_l0")}
    axes |= {f"attention.{end}": 1 for end in ("in_proj_weight", "out_proj.weight")}
    assert mask.unfit == ("expert",)  # nothing says which of its axes the inputs are
    assert set(mask.kept) == {*axes, "expert"}
    for name, axis in axes.items():
        old, new = weights(name, dense, model)
        for before, after in zip(groups_of(old, axis, 2), groups_of(new, axis, 2), strict=True):
            assert after.nonzero().flatten().tolist() == [int(before.abs().argmax())]
    tied = Net(lambda net, x: net.head(net.words(x)), words=nn.Embedding(6, 4), head=nn.Linear(4, 6, bias=False))
    tied.head.weight = tied.words.weight
    assert prune(tied, pattern="2:4", prunable="head.weight").layers == {"head.weight": 0.5}
    with pytest.warns(UserWarning, match="expert"):
        assert list(prune(model, 0.9).kept) == ["attention.out_proj.weight"]


def test_a_pattern_loses_less_than_another_choice_within_the_groups():
    net = digits()
    dense = measure_loss(net.model, F.cross_entropy, net.data)
    losses = {}
    for method in ("magnitude", "random"):
        model = copy.deepcopy(net.model)
        prune(model, pattern="2:4", method=method)
        losses[method] = measure_loss(model, F.cross_entropy, net.data)
    assert dense < losses["magnitude"] < losses["random"]


def test_pruned_at_the_measured_limit_the_loss_is_the_measured_one():
    net = digits()
    found = measure_threshold(net.model, F.cross_entropy, net.data, 0.05)
    model = copy.deepcopy(net.model)
    prune(model, found.threshold)
    assert measure_loss(model, F.cross_entropy, net.data) == pytest.approx(found.losses[found.threshold], rel=1e-12)


@pytest.mark.parametrize("method", ["lamp", "taylor", "synflow"])
def test_other_methods_are_given_what_they_look_at(method):
    model, data = net(), (normal(12, 3, 8, 8, dtype=torch.float32), labels(12, 5))
    mask = prune(model, 0.6, method, data=data)
    assert mask.removed == math.ceil(0.6 * mask.dimension) == int((flat(model) == 0).sum())
    assert not any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_masks_and_networks_come_back_from_their_files(suffix, tmp_path):
    model = net()
    mask = prune(model, 0.8)
    mask.save(tmp_path / f"mask.{suffix}")
    again = load_mask(tmp_path / f"mask.{suffix}")
    assert (again.method, again.pattern, again.unfit) == ("magnitude", None, ())
    assert list(again.kept) == WEIGHTS
    assert all(torch.equal(again.kept[name], mask.kept[name]) for name in WEIGHTS)
    assert json.loads((tmp_path / "mask.json").read_text()) == mask.to_dict()
    fresh = net()
    again.apply(fresh)
    assert torch.equal(flat(fresh), flat(model))
    save_pruned(model, mask, tmp_path / f"pruned.{suffix}")
    fresh = net()
    if suffix == "pt":
        fresh.load_state_dict(torch.load(tmp_path / "pruned.pt", weights_only=True))
    else:
        load_model(fresh, tmp_path / "pruned.safetensors")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_tied_weights_come_back_and_one_of_their_names_is_enough(tmp_path):
    def tied() -> nn.Module:
        model = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
        model["head"].weight = model["embedding"].weight
        return model

    model, path = tied(), tmp_path / "tied.safetensors"
    save_pruned(model, prune(model, 0.5, prunable="embedding.weight"), path)
    state = read_state(path)
    assert set(state) == {"embedding.weight"}
    for given in (state, {"head.weight": state["embedding.weight"]}, model.state_dict()):
        again = tied()
        load_state(again, given, path)
        assert torch.equal(again["head"].weight, model["head"].weight)
    again = tied()
    assert load_model(again, path) == (set(), [])  # which takes one name for a weight, and no more
    assert torch.equal(again["head"].weight, model["head"].weight)
    with pytest.raises(ArtifactError, match="embedding.weight is missing; head.weight is missing"):
        load_state(tied(), {}, path)


def test_the_report_counts_what_there_is(tmp_path):
    model = net()
    mask = prune(model, 0.9)
    report = save_pruned(model, mask, tmp_path / "pruned.pt", inputs=torch.zeros(2, 3, 8, 8))
    content = (tmp_path / "pruned.pt").read_bytes()
    assert (report.bytes, report.compressed_bytes) == (len(content), len(zlib.compress(content)))
    assert report.compressed_bytes < 0.6 * report.bytes
    assert report.zeros == int((flat(model) == 0).sum())
    assert report.parameters == sum(parameter.numel() for parameter in model.parameters())
    # Uses by hand: 8 x 8 output pixels, 8 x 8 input pixels of the transposed one, 14 x 14 outputs, once.
    uses = dict(zip(WEIGHTS, (64, 64, 196, 1), strict=True))
    assert report.dense_multiply_adds == sum(uses[name] * model.get_parameter(name).numel() for name in WEIGHTS)
    assert report.multiply_adds == sum(uses[name] * int(model.get_parameter(name).count_nonzero()) for name in WEIGHTS)
    text = str(report)
    assert "no faster" in text
    assert f"{report.zeros:,} of {report.weights:,} prunable weights" in text
    assert f"{report.multiply_adds:,} without zeros" in text


def test_weights_that_no_layer_multiplies_are_named_and_not_counted(tmp_path):
    model = Net(lambda net, x: F.linear(net.b(x), net.a.weight), a=nn.Linear(3, 2, bias=False), b=nn.Linear(4, 3))
    mask = prune(model, 0.5)
    report = save_pruned(model, mask, tmp_path / "pruned.pt", inputs=torch.zeros(7, 4))
    assert report.uncounted == ("a.weight",)
    assert report.dense_multiply_adds == 12
    assert "not counting a.weight" in str(report)


def test_a_network_that_was_trained_on_is_not_saved_as_pruned(tmp_path):
    model = net()
    mask = prune(model, 0.5)
    with torch.no_grad():
        model[8].weight.add_(0.1)
    with pytest.raises(TypeError, match="in this order, got Mask and Sequential"):
        save_pruned(mask, model, tmp_path / "pruned.pt")
    with pytest.raises(ValueError, match="call mask.apply"):
        save_pruned(model, mask, tmp_path / "pruned.pt")
    assert not (tmp_path / "pruned.pt").exists()
    mask.apply(model)
    assert mask.holds(model)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either a sparsity or a pattern"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "either a sparsity or a pattern"),
        ({"sparsity": 1.5}, r"sparsity must be in \[0, 1\], got 1.5"),
        ({"sparsity": 0.5, "method": "imp"}, "prunes and trains in turn"),
        ({"sparsity": 0.5, "method": "taylor"}, "needs samples with labels"),
        ({"pattern": "4:2"}, "pattern must be 'N:M'"),
        ({"sparsity": "0.5"}, r"sparsity must be in \[0, 1\], got '0.5'"),
        ({"pattern": 24}, "pattern must be 'N:M' .* got 24"),
        ({"pattern": "2-4"}, "pattern must be 'N:M'"),
        ({"pattern": "2:7"}, "fits no layer: 7 divides"),
        ({"pattern": "2:4", "method": "synflow"}, "no ranking"),
    ],
)
def test_what_cannot_be_pruned_is_refused_and_nothing_is_changed(given, message):
    model = net()
    with pytest.raises(ValueError, match=message):
        prune(model, **given)
    assert torch.equal(flat(model), flat(net()))


@pytest.mark.parametrize(("value", "kind"), [(math.nan, "NaN"), (math.inf, "infinite numbers")])
def test_the_weight_that_is_no_number_is_named(value, kind):
    model = net()
    with torch.no_grad():
        model[8].weight[1, 2] = value
    data = torch.randn(8, 3, 8, 8), labels(8, 5)
    for call in (lambda: prune(model, 0.5), lambda: measure_threshold(model, F.cross_entropy, data, 0.1)):
        with pytest.raises(FloatingPointError, match=f"8.weight of the network holds {kind}"):
            call()


def test_a_mask_of_another_network_is_refused_and_nothing_is_changed():
    mask = prune(net(), 0.5)
    with pytest.raises(ValueError, match="Linear has no parameter 0.weight"):
        mask.apply(nn.Linear(3, 3))
    other = net()
    other[8] = nn.Linear(16, 6)
    before = flat(other)
    with pytest.raises(ValueError, match=r"8.weight has shape \(6, 16\), its mask \(5, 16\)"):
        mask.apply(other)
    assert torch.equal(flat(other), before)


def test_files_that_are_something_else_are_refused(tmp_path):
    mask = prune(net(), 0.5)
    for name in ("mask.json", "mask.ONNX", "mask.pt.gz"):
        with pytest.raises(ValueError, match="torch.save"):
            mask.save(tmp_path / name)
    mask.save(tmp_path / "mask.SafeTensors")
    with safetensors.safe_open(tmp_path / "mask.SafeTensors", "pt") as file:
        assert set(file.keys()) == set(mask.kept)
    assert load_mask(tmp_path / "mask.SafeTensors").layers == mask.layers
    (tmp_path / "text.safetensors").write_text("weights")
    with pytest.raises(ValueError, match="text.safetensors is no complete file of safetensors"):
        read_state(tmp_path / "text.safetensors")
    torch.save(net(), tmp_path / "module.pt")
    with pytest.raises(ValueError, match="holds more than tensors: it asks for torch.nn.*; save model.state_dict"):
        read_state(tmp_path / "module.pt")
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(ValueError, match="text.pt"):
        read_state(tmp_path / "text.pt")
    torch.save(net().state_dict(), tmp_path / "state.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:900])
    with pytest.raises(ValueError, match="half.pt is no complete file"):
        read_state(tmp_path / "half.pt")
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    with pytest.raises(ValueError, match="holds Tensor, not a dictionary"):
        read_state(tmp_path / "tensor.pt")
    with pytest.raises(ValueError, match="is no file of masks"):
        load_mask(tmp_path / "state.pt")
    with pytest.raises(FileNotFoundError):
        load_mask(tmp_path / "none.pt")
