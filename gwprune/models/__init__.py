"""Networks by name: ``build("resnet18", (3, 32, 32), classes=100, width=0.5)``.

``names()`` lists the built-in networks; ``torchvision:NAME`` and ``module:function`` reach any other.
Importing this package needs torch only; torchvision is imported when a ``torchvision:`` name is used.
"""

from __future__ import annotations

from . import alexnet, fc, lenet, resnet, resnet_cifar, vgg  # noqa: F401  importing registers
from .registry import NETWORKS, build, names, network_options, register, validate

__all__ = ["NETWORKS", "build", "names", "network_options", "register", "validate"]
