"""Networks by name: ``build("resnet18", (3, 32, 32), classes=100, width=0.5)``.

``names()`` lists the built-in networks; ``torchvision:NAME`` and ``module:function`` reach any other. A new network is
one function ``(input_shape, classes, **options)`` and one line in `registry`. torch is imported when a network is
built, torchvision when a ``torchvision:`` name is used.
"""

from .registry import NETWORKS, Network, build, names, validate

__all__ = ["NETWORKS", "Network", "build", "names", "validate"]
