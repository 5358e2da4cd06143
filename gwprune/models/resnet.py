"""ResNet-18, -34 and -50 (He et al. 2016, arXiv 1512.03385) with an ImageNet or a CIFAR stem."""

from __future__ import annotations

from torch import Tensor, nn

from .checks import Shape, require_size, scaled
from .initialisation import he_normal

__all__ = ["BasicBlock", "Bottleneck", "ResNet", "initialise", "resnet18", "resnet34", "resnet50"]

CIFAR_STEM_UP_TO = 64
"""``stem="auto"`` takes the CIFAR stem for inputs of up to this many pixels, so for Tiny ImageNet too."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, inputs, H, W) -> (N, channels, H / stride, W / stride).

    Args:
        shortcut: module of the same input and output shapes as the block.
    """

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut
        self.relu2 = nn.ReLU(inplace=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: (N, inputs, H, W) -> (N, 4 channels, H / stride, ...).

    The stride is in the 3x3 convolution, as in torchvision ("ResNet v1.5").
    """

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=False)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.downsample = shortcut
        self.relu3 = nn.ReLU(inplace=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        return self.relu3(self.bn3(self.conv3(out)) + self.downsample(x))


class ResNet(nn.Module):
    """Stem, four stages, global average, one linear layer: (N, C, H, W) -> (N, classes).

    Parameter names are those of torchvision, so with the ImageNet stem and width 1 its state dicts load.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks per stage.
        inputs: input channels.
        imagenet_stem: 7x7 convolution with stride 2 and 3x3 max pooling; otherwise a 3x3 convolution.
        width: multiplier of the base width 64.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        inputs: int,
        classes: int,
        imagenet_stem: bool,
        width: float,
    ) -> None:
        super().__init__()
        base = scaled(64, width)
        if imagenet_stem:
            self.conv1 = nn.Conv2d(inputs, base, 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(inputs, base, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(base)
        self.relu = nn.ReLU(inplace=False)
        channels = base
        for index, depth in enumerate(depths):
            planes = base * 2**index
            blocks = []
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                outputs = planes * block.expansion
                blocks.append(block(channels, planes, stride, _projection(channels, outputs, stride)))
                channels = outputs
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def initialise(network: nn.Module) -> None:
    """torchvision's ResNet initialisation: He normal (fan_out) convolutions, PyTorch's default elsewhere."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            he_normal(module, mode="fan_out")


def resnet18(input_shape: Shape, classes: int, stem: str = "auto", width: float = 1.0) -> nn.Module:
    """ResNet-18: (N, C, H, W) -> (N, classes); 11,173,962 parameters for (3, 32, 32) and 10 classes.

    Initialisation of torchvision: He normal (fan_out) convolutions, unit batch normalisation, default linear.

    Args:
        stem: ``"imagenet"`` (7x7 convolution with stride 2, max pooling; at least 32 pixels), ``"cifar"``
            (3x3 convolution, no pooling, as github.com/kuangliu/pytorch-cifar; at least 8 pixels) or
            ``"auto"``: CIFAR if the longer side has at most 64 pixels.
        width: multiplier of the base width 64.

    Raises:
        ValueError: if the input is smaller than the stem allows.
    """
    return _resnet("resnet18", BasicBlock, (2, 2, 2, 2), input_shape, classes, stem, width)


def resnet34(input_shape: Shape, classes: int, stem: str = "auto", width: float = 1.0) -> nn.Module:
    """ResNet-34; arguments, stems and initialisation as `resnet18`."""
    return _resnet("resnet34", BasicBlock, (3, 4, 6, 3), input_shape, classes, stem, width)


def resnet50(input_shape: Shape, classes: int, stem: str = "auto", width: float = 1.0) -> nn.Module:
    """ResNet-50 (bottleneck blocks); arguments, stems and initialisation as `resnet18`."""
    return _resnet("resnet50", Bottleneck, (3, 4, 6, 3), input_shape, classes, stem, width)


def _resnet(
    name: str,
    block: type[BasicBlock] | type[Bottleneck],
    depths: tuple[int, int, int, int],
    input_shape: Shape,
    classes: int,
    stem: str,
    width: float,
) -> ResNet:
    imagenet = stem == "imagenet" or (stem == "auto" and max(input_shape[1:]) > CIFAR_STEM_UP_TO)
    # Below these the last stage would be strided on a single pixel.
    require_size(name, input_shape, 32 if imagenet else 8)
    return ResNet(block, depths, input_shape[0], classes, imagenet, width)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
