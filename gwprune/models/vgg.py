"""VGG for small images (Simonyan and Zisserman 2015, arXiv 1409.1556, configurations A, B, D and E)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from .checks import Shape, require_size, scaled
from .initialisation import he_normal

__all__ = ["vgg11", "vgg13", "vgg16", "vgg19"]

CHANNELS = (64, 128, 256, 512, 512)
DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


def vgg11(input_shape: Shape, classes: int, batch_norm: bool = True, width: float = 1.0) -> nn.Module:
    """VGG-11 (configuration A), see `vgg16`."""
    return _vgg("vgg11", input_shape, classes, batch_norm, width)


def vgg13(input_shape: Shape, classes: int, batch_norm: bool = True, width: float = 1.0) -> nn.Module:
    """VGG-13 (configuration B), see `vgg16`."""
    return _vgg("vgg13", input_shape, classes, batch_norm, width)


def vgg16(input_shape: Shape, classes: int, batch_norm: bool = True, width: float = 1.0) -> nn.Module:
    """VGG-16 (configuration D) in its CIFAR form: (N, C, H, W) -> (N, classes), H and W at least 32.

    3x3 convolutions (with bias, also under batch normalisation) in five stages that each end in 2x2 max
    pooling, a global average and ONE linear layer, the form of github.com/kuangliu/pytorch-cifar:
    14,728,266 parameters for (3, 32, 32) and 10 classes.

    Initialisation of torchvision's VGG: He normal (fan_out) convolutions, normal(0, 0.01) linear weights,
    zero biases.

    Args:
        batch_norm: BatchNorm2d between each convolution and its ReLU.
        width: multiplier of all channel counts.

    Raises:
        ValueError: if the input is smaller than 32 pixels.
    """
    return _vgg("vgg16", input_shape, classes, batch_norm, width)


def vgg19(input_shape: Shape, classes: int, batch_norm: bool = True, width: float = 1.0) -> nn.Module:
    """VGG-19 (configuration E), see `vgg16`."""
    return _vgg("vgg19", input_shape, classes, batch_norm, width)


def _vgg(name: str, input_shape: Shape, classes: int, batch_norm: bool, width: float) -> nn.Module:
    require_size(name, input_shape, 32)
    layers: list[nn.Module] = []
    inputs = input_shape[0]
    for depth, channels in zip(DEPTHS[name], CHANNELS, strict=True):
        for _ in range(depth):
            filters = scaled(channels, width)
            convolution = nn.Conv2d(inputs, filters, kernel_size=3, padding=1)
            he_normal(convolution, mode="fan_out")
            layers.append(convolution)
            if batch_norm:
                layers.append(nn.BatchNorm2d(filters))
            layers.append(nn.ReLU(inplace=False))
            inputs = filters
        layers.append(nn.MaxPool2d(2))
    classifier = nn.Linear(inputs, classes)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    parts = {
        "features": nn.Sequential(*layers),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "classifier": classifier,
    }
    return nn.Sequential(OrderedDict(parts))
