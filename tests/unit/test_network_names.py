"""Networks by name: options, sizes of inputs, networks of torchvision and of users, and what errors say."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from gwprune import models

from .helpers_networks import meta, prunable

CIFAR = (3, 32, 32)


def test_names_are_sorted_and_plain():
    assert models.names() == sorted(models.NETWORKS) == list(models.NETWORKS)
    assert {"fc", "fc5", "fc12", "lenet5", "cnn", "alexnet", "vgg16", "resnet18", "resnet56"} <= set(models.names())


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        (
            "resnet81",
            {},
            ["'resnet81'", "did you mean 'resnet", "lenet5", "torchvision:NAME", "module:function"],
        ),
        ("", {}, ["'' is no network", "fc12"]),
        (5, {}, ["must be a string", "5"]),
        ("vgg16", {"batchnorm": True}, ["'vgg16'", "'batchnorm'", "did you mean 'batch_norm'?", "width"]),
        ("resnet18", {"stem": "imagnet"}, ["'stem'", "'imagnet'", "did you mean 'imagenet'?", "'auto', 'cifar'"]),
        ("vgg16", {"width": "0.5"}, ["'vgg16'", "'width'", "a valid number", "'0.5'"]),
        ("vgg16", {"width": 0}, ["greater than 0", "got 0"]),
        ("vgg16", {"batch_norm": "yes"}, ["a valid boolean", "'yes'"]),
        ("fc", {"hidden": [300, 0]}, ["'hidden'", "greater than or equal to 1", "got 0"]),
        ("fc", {"hidden": 300}, ["a valid list", "got 300"]),
        ("lenet5", {"channels": [6]}, ["at least 2 items", "[6]"]),
        ("resnet20", {"width": True}, ["a valid integer", "True"]),
        ("alexnet", {"dropout": 1.0}, ["less than 1", "1.0"]),
        ("torchvision:resnet51", {}, ["'resnet51'", "did you mean 'resnet50'?", "vgg16"]),
        ("torchvision:resnet50", {"weight": None}, ["'weight'", "did you mean 'weights'?"]),
        ("torchvision:resnet50", {"weights": "IMAGENET"}, ["'IMAGENET'", "IMAGENET1K_V1"]),
        ("no_such_module_x:make", {}, ["'no_such_module_x'", "cannot be imported", "PYTHONPATH"]),
        ("math:sqr", {}, ["'sqr'", "did you mean 'sqrt'?"]),
        ("math:pi", {}, ["'pi' is not callable"]),
        ("math:", {}, ["module:function"]),
        (":make", {}, ["module:function"]),
    ],
)
def test_errors_name_the_value_and_what_is_allowed(name, options, parts):
    with pytest.raises(ValueError, match=r".") as caught:
        models.validate(name, options)
    for part in parts:
        assert part in str(caught.value)
    with pytest.raises(ValueError, match=r"."):
        models.build(name, CIFAR, 10, **options)


def test_a_module_in_the_current_directory_is_found_last(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "a_network_here.py").write_text("def build(input_shape, classes): ...")
    with pytest.raises(ValueError, match=r"put it into the current directory"):
        models.validate("a_network_here:build", {})
    monkeypatch.chdir(tmp_path)
    models.validate("a_network_here:build", {})
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "side", "minimum"),
    [
        ("lenet5", 11, 12),
        ("alexnet", 31, 32),
        ("vgg11", 31, 32),
        ("resnet18", 7, 8),
        ("resnet50", 4, 8),
        ("resnet20", 3, 4),
    ],
)
def test_too_small_an_input(name, side, minimum):
    with pytest.raises(ValueError, match=rf"'{name}'.*\(3, 40, {side}\).*at least {minimum}"):
        models.build(name, (3, 40, side), 10)
    meta(name, (3, minimum, minimum), 10)(torch.empty(2, 3, minimum, minimum, device="meta"))


def test_dropout_is_passed_on():
    rates = [m.p for m in meta("alexnet", CIFAR, 10, dropout=0.5).modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.5, 0.5]


def test_too_small_for_the_imagenet_stem():
    with pytest.raises(ValueError, match="at least 32"):
        models.build("resnet18", (3, 28, 28), 10, stem="imagenet")


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28, 1), (1, 0, 28), (1, 28.0, 28)])
def test_malformed_input_shape(shape):
    with pytest.raises(ValueError, match="channels, height, width"):
        models.build("fc", shape, 10)


def test_classes_must_be_positive():
    with pytest.raises(ValueError, match="classes"):
        models.build("fc", (1, 4, 4), 0)


def test_a_list_is_a_shape_too():
    assert models.build("fc", [1, 4, 4], 3)(torch.randn(2, 1, 4, 4)).shape == (2, 3)


# --- torchvision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "vit_b_16"])
def test_torchvision_networks(name):
    assert models.build(f"torchvision:{name}", CIFAR, 6).eval()(torch.randn(2, *CIFAR)).shape == (2, 6)


def test_torchvision_googlenet_has_no_auxiliary_outputs():
    network = models.build("torchvision:googlenet", CIFAR, 6)
    assert network.training
    assert network(torch.randn(2, *CIFAR)).shape == (2, 6)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small"])
def test_pretrained_weights_keep_all_but_the_last_layer(name, monkeypatch):
    import torchvision

    state = torchvision.models.get_model(name).state_dict()
    weights = torchvision.models.get_model_weights(name)
    monkeypatch.setattr(weights, "get_state_dict", lambda self, **_: state)
    network = models.build(f"torchvision:{name}", CIFAR, 6, weights="DEFAULT")
    assert network.eval()(torch.randn(2, *CIFAR)).shape == (2, 6)
    ours = network.state_dict()
    changed = {k.rpartition(".")[0] for k in state if not torch.equal(state[k], ours[k])}
    assert len(changed) == 1
    original = models.build(f"torchvision:{name}", CIFAR, 1000, weights="DEFAULT").state_dict()
    assert all(torch.equal(state[k], original[k]) for k in state)


def test_torchvision_wants_three_channels():
    with pytest.raises(ValueError, match="takes 3 channels"):
        models.build("torchvision:resnet18", (1, 28, 28), 10)


def test_torchvision_refuses_an_unfit_size():
    with pytest.raises(ValueError, match=r"torchvision:vit_b_16.*\(3, 33, 33\)"):
        models.build("torchvision:vit_b_16", (3, 33, 33), 10)
    with pytest.raises(ValueError, match=r"cannot take inputs of shape \(3, 8, 8\)"):
        models.build("torchvision:alexnet", (3, 8, 8), 10)


# --- user networks -------------------------------------------------------------------------------------------

USER_MODULE = """
import math
from torch import nn

def make(input_shape, classes, hidden=7):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), hidden), nn.Linear(hidden, classes))

def open_options(**options):
    return make(options.pop("input_shape"), options.pop("classes"), **options)

def needs(input_shape, classes, *, depth):
    return make(input_shape, classes)

def no_classes(input_shape):
    return make(input_shape, 2)

def not_a_module(input_shape, classes):
    return lambda x: x

def wrong_classes(input_shape, classes):
    return make(input_shape, classes + 1)

def breaks(input_shape, classes):
    raise KeyError("inside")

class Net(nn.Linear):
    def __init__(self, input_shape, classes):
        super().__init__(math.prod(input_shape), classes)
        self.frozen = nn.BatchNorm1d(3).eval()

    def forward(self, x):
        return super().forward(x.flatten(1))
"""


@pytest.fixture
def user(tmp_path, monkeypatch):
    """Name of an importable module with user networks."""
    (tmp_path / "user_nets_for_gwprune.py").write_text(USER_MODULE)
    (tmp_path / "broken_nets_for_gwprune.py").write_text("import no_such_dependency_x")
    monkeypatch.syspath_prepend(tmp_path)
    return "user_nets_for_gwprune"


def test_user_function(user):
    network = models.build(f"{user}:make", (1, 4, 4), 3, hidden=9)
    assert prunable(network) == 16 * 9 + 9 * 3
    assert prunable(models.build(f"{user}:open_options", (1, 4, 4), 3, hidden=5)) == 16 * 5 + 5 * 3


def test_user_class_keeps_its_modes(user):
    network = models.build(f"{user}:Net", (1, 4, 4), 3)
    assert network.training
    assert not network.frozen.training


@pytest.mark.parametrize(
    ("function", "options", "parts"),
    [
        ("mak", {}, ["'mak'", "did you mean 'make'?", "no_classes"]),
        ("make", {"hiden": 3}, ["'hiden'", "did you mean 'hidden'?"]),
        ("needs", {}, ["needs option 'depth'"]),
        ("no_classes", {}, ["cannot be called", "classes"]),
    ],
)
def test_user_errors_are_found_early(user, function, options, parts):
    with pytest.raises(ValueError, match=r".") as caught:
        models.validate(f"{user}:{function}", options)
    for part in parts:
        assert part in str(caught.value)


def test_user_module_with_a_missing_dependency(user):
    with pytest.raises(ValueError, match=r"broken_nets_for_gwprune.*no_such_dependency_x"):
        models.validate("broken_nets_for_gwprune:make", {})


def test_user_network_must_be_a_module(user):
    with pytest.raises(TypeError, match=r"not_a_module'.*returned function, not a torch.nn.Module"):
        models.build(f"{user}:not_a_module", (1, 4, 4), 3)


def test_user_network_must_give_the_right_logits(user):
    with pytest.raises(ValueError, match=r"\(2, 3\), got \(2, 4\)"):
        models.build(f"{user}:wrong_classes", (1, 4, 4), 3)


def test_an_error_inside_a_user_function_is_kept(user):
    with pytest.raises(KeyError, match="inside") as caught:
        models.build(f"{user}:breaks", (1, 4, 4), 3)
    assert any("breaks" in note for note in caught.value.__notes__)
