"""The CIFAR ResNets of He et al. 2016 (arXiv 1512.03385, section 4.2): ResNet-20, -32 and -56."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from .checks import Shape, require_size
from .resnet import BasicBlock, initialise

__all__ = ["CifarResNet", "IdentityPadding", "resnet20", "resnet32", "resnet56"]


class IdentityPadding(nn.Module):
    """Option A shortcut, without parameters: every second pixel, and zeros for the missing channels.

    (N, inputs, H, W) -> (N, outputs, ceil(H / 2), ceil(W / 2))
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.front = (outputs - inputs) // 2
        self.back = outputs - inputs - self.front

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.front, self.back))


class CifarResNet(nn.Module):
    """3x3 convolution, three stages of basic blocks, global average, linear: (N, C, H, W) -> (N, classes).

    Args:
        blocks: blocks per stage (n in the paper; the depth is 6 n + 2).
        inputs: input channels.
        shortcut: ``"A"`` or ``"B"``, see `resnet20`.
        width: channels of the first stage; the others have 2 and 4 times as many.
    """

    def __init__(self, blocks: int, inputs: int, classes: int, shortcut: str, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=False)
        self.layer1 = _stage(blocks, width, width, shortcut)
        self.layer2 = _stage(blocks, width, 2 * width, shortcut)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(blocks: int, inputs: int, channels: int, shortcut: str) -> nn.Sequential:
    rest = [BasicBlock(channels, channels, 1, nn.Identity()) for _ in range(blocks - 1)]
    if inputs == channels:
        return nn.Sequential(BasicBlock(channels, channels, 1, nn.Identity()), *rest)
    if shortcut == "A":
        change: nn.Module = IdentityPadding(inputs, channels)
    else:
        change = nn.Sequential(nn.Conv2d(inputs, channels, 1, stride=2, bias=False), nn.BatchNorm2d(channels))
    return nn.Sequential(BasicBlock(inputs, channels, 2, change), *rest)


def resnet20(input_shape: Shape, classes: int, shortcut: str = "A", width: int = 16) -> nn.Module:
    """ResNet-20: (N, C, H, W) -> (N, classes), H and W at least 4.

    269,722 parameters for (3, 32, 32) and 10 classes (0.27M in the paper). He normal (fan_out) convolutions
    (the paper cites He et al. 2015), unit batch normalisation, PyTorch's default for the linear layer.

    Args:
        shortcut: where the shape changes, ``"A"`` subsamples and pads with zero channels (the paper's choice
            on CIFAR), ``"B"`` is a 1x1 convolution with batch normalisation.
        width: channels of the first of the three stages.

    Raises:
        ValueError: if the input is smaller than 4 pixels.
    """
    return _cifar_resnet("resnet20", 3, input_shape, classes, shortcut, width)


def resnet32(input_shape: Shape, classes: int, shortcut: str = "A", width: int = 16) -> nn.Module:
    """ResNet-32, 464,154 parameters; see `resnet20`."""
    return _cifar_resnet("resnet32", 5, input_shape, classes, shortcut, width)


def resnet56(input_shape: Shape, classes: int, shortcut: str = "A", width: int = 16) -> nn.Module:
    """ResNet-56, 853,018 parameters; see `resnet20`."""
    return _cifar_resnet("resnet56", 9, input_shape, classes, shortcut, width)


def _cifar_resnet(name: str, blocks: int, input_shape: Shape, classes: int, shortcut: str, width: int) -> CifarResNet:
    require_size(name, input_shape, 4)
    return CifarResNet(blocks, input_shape[0], classes, shortcut, width)
