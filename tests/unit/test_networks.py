"""Built-in networks: published sizes, shapes, differentiability, initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gwprune import models

from .helpers_networks import meta, prunable

CIFAR = (3, 32, 32)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# --- published sizes -----------------------------------------------------------------------------------------


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
        ("vit", 16 * 48 + 4 * 12 * 48**2 + 480),
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


def test_blocks_of_the_vision_transformer_equal_torchs_encoder_layers():
    torch.manual_seed(0)
    block = models.build("vit", (1, 28, 28), 10, width=12, heads=3).blocks[0].double()
    layer = nn.TransformerEncoderLayer(12, 3, 48, 0.0, nn.functional.gelu, batch_first=True, norm_first=True).double()
    layer.load_state_dict(
        dict(zip(layer.state_dict(), (block.state_dict()[name] for name in (
            *(f"attention.{part}_proj.{kind}" for part in ("in", "out") for kind in ("weight", "bias")),
            *(f"mlp.{place}.{kind}" for place in (0, 2) for kind in ("weight", "bias")),
            *(f"norm{number}.{kind}" for number in (1, 2) for kind in ("weight", "bias")),
        )), strict=True))
    )  # fmt: skip
    tokens = torch.randn(2, 49, 12, dtype=torch.float64)
    torch.testing.assert_close(block(tokens), layer(tokens), rtol=1e-12, atol=1e-12)


def test_heads_of_the_vision_transformer_divide_its_width():
    with pytest.raises(ValueError, match="heads must divide width, got heads 5 and width 48"):
        models.build("vit", CIFAR, 10, heads=5)


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


# --- shapes and derivatives ----------------------------------------------------------------------------------


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
