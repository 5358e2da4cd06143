"""Small convolutional networks: LeNet-5 and a network for tiny images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .checks import Shape, require_size

__all__ = ["cnn", "lenet5"]


def lenet5(input_shape: Shape, classes: int, channels: tuple[int, int] = (16, 32)) -> nn.Module:
    """LeNet-5 with ReLU and max pooling: (N, C, H, W) -> (N, classes), H and W at least 12.

    Two 5x5 convolutions (the first with padding 2, as LeCun et al. 1998 pad 28x28 to 32x32; the second
    without), each with ReLU and 2x2 max pooling, then linear layers of 120, 84 and ``classes``. For
    (1, 28, 28) and 10 classes that is 800-120-84-10 behind the convolutions, D = 120,120;
    ``channels=[6, 16]`` has the channel counts of 1998.

    PyTorch's default initialisation (uniform, +-1/sqrt(fan_in)).

    Args:
        channels: filters of the two convolutions.

    Raises:
        ValueError: if the input is smaller than 12 pixels.
    """
    require_size("lenet5", input_shape, 12)
    inputs, height, width = input_shape
    first, second = channels
    features = second * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, first, kernel_size=5, padding=2),
        nn.ReLU(inplace=False),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, kernel_size=5),
        nn.ReLU(inplace=False),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(features, 120),
        nn.ReLU(inplace=False),
        nn.Linear(120, 84),
        nn.ReLU(inplace=False),
        nn.Linear(84, classes),
    )


def cnn(input_shape: Shape, classes: int, channels: Sequence[int] = (16, 32), hidden: int = 64) -> nn.Module:
    """A small convolutional network for tiny images such as 8x8: (N, C, H, W) -> (N, classes), any H and W.

    Per entry of ``channels`` a 3x3 convolution (padding 1), ReLU and, while both sides have at least 2
    pixels, 2x2 max pooling; then one hidden linear layer. PyTorch's default initialisation.

    Args:
        channels: filters of the convolutions.
        hidden: units of the hidden linear layer.
    """
    inputs, height, width = input_shape
    layers: list[nn.Module] = []
    for filters in channels:
        layers += [nn.Conv2d(inputs, filters, kernel_size=3, padding=1), nn.ReLU(inplace=False)]
        if min(height, width) >= 2:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        inputs = filters
    layers += [nn.Flatten(), nn.Linear(inputs * height * width, hidden), nn.ReLU(inplace=False)]
    return nn.Sequential(*layers, nn.Linear(hidden, classes))
