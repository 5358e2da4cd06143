"""AlexNet for small images."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from .checks import Shape, require_size
from .initialisation import he_normal

__all__ = ["alexnet"]


def alexnet(input_shape: Shape, classes: int, dropout: float = 0.0) -> nn.Module:
    """AlexNet in its common CIFAR form: (N, C, H, W) -> (N, classes), H and W at least 32.

    The channels and the 4096-4096 classifier of "One weird trick" (Krizhevsky 2014, arXiv 1404.5997, the
    form in torchvision), with all kernels 3x3, a first stride of 2 and three 2x2 max poolings, so that 32x32
    ends at 2x2; the form of github.com/icpm/pytorch-cifar10. 23,272,266 parameters for (3, 32, 32) and 10
    classes. Larger images are averaged to 2x2 before the classifier.

    He normal (fan_in) weights and zero biases (He et al. 2015, arXiv 1502.01852) except for the last layer,
    which keeps PyTorch's default. With that default everywhere, as in torchvision, training starts on a
    plateau.

    Args:
        dropout: rate in front of the two hidden linear layers; the original has 0.5. The default 0 keeps the
            training loss the function whose curvature is measured.

    Raises:
        ValueError: if the input is smaller than 32 pixels.
    """
    require_size("alexnet", input_shape, 32)
    layers: list[nn.Module] = []
    inputs = input_shape[0]
    for index, filters in enumerate((64, 192, 384, 256, 256)):
        layers.append(nn.Conv2d(inputs, filters, kernel_size=3, stride=2 if index == 0 else 1, padding=1))
        layers.append(nn.ReLU(inplace=False))
        if index in (0, 1, 4):
            layers.append(nn.MaxPool2d(2))
        inputs = filters
    height, width = ((side + 1) // 2 // 8 for side in input_shape[1:])
    classifier = nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(256 * 2 * 2, 4096),
        nn.ReLU(inplace=False),
        nn.Dropout(dropout),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=False),
        nn.Linear(4096, classes),
    )
    for layer in (*layers, *classifier[:-1]):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            he_normal(layer)
    parts = {
        "features": nn.Sequential(*layers),
        "pool": _average_to_two(height, width),
        "flatten": nn.Flatten(),
        "classifier": classifier,
    }
    return nn.Sequential(OrderedDict(parts))


def _average_to_two(height: int, width: int) -> nn.Module:
    # The same result either way, but the gradient of adaptive pooling is not deterministic on CUDA.
    if height % 2 == 0 and width % 2 == 0:
        return nn.AvgPool2d((height // 2, width // 2))
    return nn.AdaptiveAvgPool2d(2)
