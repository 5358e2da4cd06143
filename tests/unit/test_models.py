"""Networks: published sizes, shapes, differentiability, and the errors of the registry."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from gwprune import models

CIFAR = (3, 32, 32)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def prunable(network: nn.Module) -> int:
    layers = (nn.Linear, nn.Conv2d)
    return sum(m.weight.numel() for m in network.modules() if isinstance(m, layers))


def meta(name: str, input_shape: tuple[int, int, int], classes: int, **options) -> nn.Module:
    """Build without memory or time for the weights."""
    with torch.device("meta"):
        return models.build(name, input_shape, classes, **options)


# --- published sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "input_shape", "classes", "options", "count"),
    [
        # He et al. 2016, table 6 (0.27M, 0.46M, 0.85M); exact: github.com/akamaster/pytorch_resnet_cifar10
        ("resnet20", CIFAR, 10, {}, 269_722),
        ("resnet32", CIFAR, 10, {}, 464_154),
        ("resnet56", CIFAR, 10, {}, 853_018),
        # torchvision, "num_params" of the weights' metadata
        ("resnet18", (3, 224, 224), 1000, {"stem": "imagenet"}, 11_689_512),
        ("resnet34", (3, 224, 224), 1000, {}, 21_797_672),
        ("resnet50", (3, 224, 224), 1000, {}, 25_557_032),
        # github.com/kuangliu/pytorch-cifar
        ("resnet18", CIFAR, 10, {"stem": "cifar"}, 11_173_962),
        ("resnet50", CIFAR, 10, {}, 23_520_842),
        ("vgg16", CIFAR, 10, {}, 14_728_266),
        ("vgg11", CIFAR, 10, {}, 9_231_114),
        ("vgg19", CIFAR, 10, {}, 20_040_522),
        # the CIFAR form of github.com/icpm/pytorch-cifar10, layer by layer
        ("alexnet", CIFAR, 10, {}, 23_272_266),
        # LeCun et al. 1998, LeNet-300-100: 266,610 trainable parameters
        ("fc", (1, 28, 28), 10, {}, 266_610),
        # LeCun et al. 1998 with full connections between the convolutions: 61,706
        ("lenet5", (1, 28, 28), 10, {"channels": [6, 16]}, 61_706),
    ],
)
def test_parameter_count(name, input_shape, classes, options, count):
    assert parameters(meta(name, input_shape, classes, **options)) == count


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("fc", 784 * 300 + 300 * 100 + 100 * 10),
        ("fc5", 1_595_000),
        (
            "fc12",
            784_000 + 900_000 + 720_000 + 600_000 + 525_000 + 455_000 + 390_000 + 300_000 + 200_000 + 101_000,
        ),
        ("lenet5", 120_120),
    ],
)
def test_prunable_weights_at_28x28(name, count):
    assert prunable(meta(name, (1, 28, 28), 10)) == count


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_imagenet_resnets_equal_torchvision(name):
    theirs = models.build(f"torchvision:{name}", (3, 64, 64), 7)
    ours = models.build(name, (3, 64, 64), 7, stem="imagenet")
    ours.load_state_dict(theirs.state_dict())
    inputs = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(inputs), theirs.eval()(inputs))


def test_vgg_features_equal_torchvision():
    from torchvision.models import vgg

    theirs = vgg.make_layers(vgg.cfgs["A"], batch_norm=True)
    ours = models.build("vgg11", CIFAR, 10).features
    ours.load_state_dict(theirs.state_dict())
    inputs = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(inputs), theirs.eval()(inputs))


def test_option_b_adds_two_projections():
    # 1x1 convolutions 16 -> 32 and 32 -> 64 and their batch normalisation
    extra = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert parameters(meta("resnet20", CIFAR, 10, shortcut="B")) == 269_722 + extra


def test_option_a_keeps_the_channels_in_the_middle():
    from gwprune.models.resnet_cifar import IdentityPadding

    x = torch.randn(2, 4, 5, 6)
    out = IdentityPadding(4, 8)(x)
    assert out.shape == (2, 8, 3, 3)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


def test_auto_stem_depends_on_the_size():
    def kernel(shape):
        return meta("resnet18", shape, 10).conv1.kernel_size

    assert kernel((3, 64, 64)) == (3, 3)
    assert kernel((3, 65, 65)) == (7, 7)


# --- shapes and derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize(
    ("input_shape", "classes"), [((1, 32, 32), 2), ((3, 40, 33), 5), ((2, 64, 48), 3), ((3, 96, 96), 4)]
)
def test_logits_have_one_row_per_sample(name, input_shape, classes):
    network = meta(name, input_shape, classes)
    assert network(torch.empty(2, *input_shape, device="meta")).shape == (2, classes)


@pytest.mark.parametrize("name", ["fc", "fc5", "fc12", "cnn", "resnet18", "resnet50", "resnet20"])
@pytest.mark.parametrize("side", [8, 11])
def test_tiny_images(name, side):
    assert models.build(name, (1, side, side), 10)(torch.randn(2, 1, side, side)).shape == (2, 10)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (2, 3, 3)])
def test_cnn_takes_any_size(shape):
    assert models.build("cnn", shape, 4, channels=[3, 5, 7])(torch.randn(2, *shape)).shape == (2, 4)


def step_and_curvature(network: nn.Module, input_shape: tuple[int, int, int], classes: int) -> None:
    """One SGD step and one Hessian-vector product; both are finite and the weights move."""
    inputs, targets = torch.randn(2, *input_shape), torch.randint(classes, (2,))
    weights = [p for p in network.parameters() if p.requires_grad]
    loss = nn.functional.cross_entropy(network(inputs), targets)
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    # The gradient times itself is one vector that reaches every weight.
    vectors = [g.detach() for g in gradients]
    products = torch.autograd.grad(gradients, weights, grad_outputs=vectors, materialize_grads=True)
    assert all(torch.isfinite(p).all() for p in products)
    assert any(p.any() for p in products)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.detach()
    before = [w.detach().clone() for w in weights]
    torch.optim.SGD(weights, lr=1e-2).step()
    moved = [not torch.equal(w, b) for w, b in zip(weights, before, strict=True)]
    assert moved[0]
    assert moved[-1]
    assert all(torch.isfinite(w).all() for w in weights)


@pytest.mark.parametrize("name", models.names())
def test_step_and_hessian_vector_product(name):
    torch.manual_seed(0)
    step_and_curvature(models.build(name, CIFAR, 10), CIFAR, 10)


@pytest.mark.parametrize("name", [n for n in models.names() if n.startswith("resnet")])
def test_step_and_hessian_vector_product_on_tiny_imagenet(name):
    torch.manual_seed(0)
    # Narrow, since only the geometry is new here: the widths above are the full ones.
    width = 4 if name in ("resnet20", "resnet32", "resnet56") else 0.25
    step_and_curvature(models.build(name, (3, 64, 64), 200, width=width), (3, 64, 64), 200)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fc5", {"batch_norm": True}),
        ("fc", {"hidden": []}),
        ("vgg11", {"batch_norm": False, "width": 0.25}),
        ("vgg11", {"width": 0.01}),
        ("resnet20", {"shortcut": "B", "width": 5}),
        ("resnet18", {"stem": "imagenet", "width": 0.1}),
        ("torchvision:squeezenet1_1", {}),
    ],
)
def test_options_are_differentiable_too(name, options):
    torch.manual_seed(0)
    step_and_curvature(models.build(name, CIFAR, 10, **options), CIFAR, 10)


@pytest.mark.parametrize("name", [*models.names(), "torchvision:squeezenet1_1"])
def test_activations_are_not_in_place(name):
    network = models.build(name, CIFAR, 3) if ":" in name else meta(name, CIFAR, 3)
    assert not any(getattr(m, "inplace", False) for m in network.modules())


@pytest.mark.parametrize("name", ["fc", "lenet5", "vgg11", "resnet18", "resnet20"])
def test_the_seed_decides_the_weights(name):
    torch.manual_seed(3)
    first = next(models.build(name, CIFAR, 2).parameters())
    torch.manual_seed(3)
    assert torch.equal(first, next(models.build(name, CIFAR, 2).parameters()))


@pytest.mark.parametrize("name", ["fc12", "alexnet", "vgg11"])
def test_the_signal_reaches_the_last_layer(name):
    # PyTorch's default initialisation leaves nearly equal logits for all samples here, and training stalls.
    torch.manual_seed(0)
    with torch.no_grad():
        logits = models.build(name, CIFAR, 10)(torch.randn(8, *CIFAR))
    assert logits.std(dim=0).mean() > 0.02


# --- registry -----------------------------------------------------------------------------------------------


def test_names_are_sorted_and_plain():
    assert models.names() == sorted(models.NETWORKS)
    assert {"fc", "fc5", "fc12", "lenet5", "cnn", "alexnet", "vgg16", "resnet18", "resnet56"} <= set(models.names())


def test_options_and_their_defaults():
    assert models.network_options("fc") == {"hidden": [300, 100], "batch_norm": False}
    assert models.network_options("lenet5") == {"channels": [16, 32]}
    assert models.network_options("cnn") == {"channels": [16, 32], "hidden": 64}
    assert models.network_options("alexnet") == {"dropout": 0.0}
    assert models.network_options("vgg16") == {"batch_norm": True, "width": 1.0}
    assert models.network_options("resnet18") == {"stem": "auto", "width": 1.0}
    assert models.network_options("resnet20") == {"shortcut": "A", "width": 16}
    assert models.network_options("torchvision:resnet50") == {"weights": None}


@pytest.mark.parametrize("name", models.names())
def test_defaults_are_valid_options(name):
    models.validate(name, models.network_options(name))


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        (
            "resnet81",
            {},
            ["'resnet81'", "did you mean 'resnet", "lenet5", "torchvision:NAME", "module:function"],
        ),
        ("", {}, ["unknown network ''", "fc12"]),
        (5, {}, ["must be a string", "5"]),
        ("vgg16", {"batchnorm": True}, ["'vgg16'", "'batchnorm'", "did you mean 'batch_norm'?", "width"]),
        ("resnet18", {"stem": "imagnet"}, ["'stem'", "'imagnet'", "did you mean 'imagenet'?", "auto, cifar"]),
        ("vgg16", {"width": "0.5"}, ["'vgg16'", "'width'", "a number above 0", "'0.5'"]),
        ("vgg16", {"width": 0}, ["a number above 0", "got 0"]),
        ("vgg16", {"batch_norm": "yes"}, ["true or false", "'yes'"]),
        ("fc", {"hidden": [300, 0]}, ["'hidden'", "whole numbers", "[300, 0]"]),
        ("fc", {"hidden": 300}, ["list of whole numbers", "got 300"]),
        ("lenet5", {"channels": [6]}, ["two whole numbers", "[6]"]),
        ("resnet20", {"width": True}, ["whole number", "True"]),
        ("alexnet", {"dropout": 1.0}, ["below 1", "1.0"]),
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


def test_names_and_validation_do_not_import_torchvision():
    code = (
        "import sys; from gwprune import models; models.names(); models.validate('vgg16', {'width': 0.5}); "
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_registering_a_name_twice_is_an_error():
    def fc():
        pass

    with pytest.raises(ValueError, match="'fc' is registered twice"):
        models.register(fc)


# --- torchvision --------------------------------------------------------------------------------------------


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


# --- user networks ------------------------------------------------------------------------------------------

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
    assert models.network_options(f"{user}:make") == {"hidden": 7}
    network = models.build(f"{user}:make", (1, 4, 4), 3, hidden=9)
    assert prunable(network) == 16 * 9 + 9 * 3
    assert models.network_options(f"{user}:open_options") == {}
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
        ("needs", {}, ["cannot be called", "depth"]),
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
