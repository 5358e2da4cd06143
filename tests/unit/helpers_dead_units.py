"""Networks with dead units, and how many weights are left without them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from gwprune.network.prunable import PrunableSet

from . import helpers_networks
from .helpers_networks import normal

SAMPLES = 20

relu = torch.relu

Linear, C1, C2, BN1, BN2 = nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d


def data(*shape: int) -> Tensor:
    return normal(SAMPLES, *shape)


class Net(helpers_networks.Net):
    """With one named input, as tracing asks for."""

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Pair(Net):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(self, x, y)


class Optional(Net):
    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        hidden = relu(self.a(x))
        if scale is not None:
            hidden = hidden * scale
        return self.b(hidden)


def loss(output: Tensor, target: Tensor) -> Tensor:
    return (torch.tanh(output) - target).square().mean()


def alive(model: nn.Module, dead: dict[str, list[int]], seed: int = 5) -> nn.Module:
    """Random weights and biases that keep every ReLU at work, but for the units ``dead`` of the modules named."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                scale = 0.25 / parameter[0].numel() ** 0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            else:
                parameter.fill_(1.0 if name.endswith("bias") else 0.7)
        for name, units in dead.items():
            model.get_submodule(name).bias[units] = -100.0
    return model


def targets_of(model: nn.Module, inputs) -> Tensor:
    return normal(*model(*(inputs if isinstance(inputs, tuple) else (inputs,))).shape, seed=1)


def zeroed(x: Tensor, *features: int) -> Tensor:
    x[:, list(features)] = 0
    return x


def fc():
    model = nn.Sequential(Linear(5, 6), nn.ReLU(), Linear(6, 4), nn.ReLU(), Linear(4, 3))
    return alive(model, {"0": [1, 4], "2": [0]}), zeroed(data(5), 2, 3), 3 * 4 + 4 * 3 + 3 * 3


def lenet():
    model = nn.Sequential(
        *(C2(1, 3, 3), BN2(3), nn.ReLU(), nn.MaxPool2d(2), C2(3, 4, 2), nn.ReLU(), nn.Flatten()),
        *(Linear(16, 5), nn.ReLU(), nn.Dropout(), Linear(5, 2)),
    )
    return alive(model, {"1": [1], "4": [0, 3], "7": [2]}), data(1, 8, 8), 2 * 9 + 4 * 4 + 8 * 4 + 4 * 2


def residual():
    def forward(net: Net, x: Tensor) -> Tensor:
        return net.c(relu(x + net.b(relu(net.n(net.a(x))))))

    layers = {"a": C2(2, 3, 3, padding=1), "n": BN2(3), "b": C2(3, 2, 3, padding=1), "c": C2(2, 2, 1)}
    return alive(Net(forward, **layers), {"n": [0], "b": [1]}), data(2, 4, 4), 36 + 36 + 4


def tied_backwards():
    """The first to be called is the last to be named."""
    model = Net(
        lambda n, x: n.c(relu(n.b(relu(n.a(relu(n.z(x))))))),
        a=Linear(4, 4),
        z=Linear(4, 4),
        b=Linear(4, 3),
        c=Linear(3, 2),
    )
    model.z.weight = model.a.weight
    return alive(model, {"b": [0]}), data(4), 16 + 12 + 6


def zero_inputs(*features: int, left: int):
    model = nn.Sequential(Linear(4, 3), nn.ReLU(), Linear(3, 2))
    return alive(model, {"0": [0]}), zeroed(data(4), *features), left


def twice():
    def forward(net: Net, x: Tensor) -> Tensor:
        return net.d(relu(net.b(relu(net.s(relu(net.s(relu(net.a(x)))))))))

    layers = {"a": Linear(4, 3), "s": Linear(3, 3), "b": Linear(3, 3), "d": Linear(3, 2)}
    model = alive(Net(forward, **layers), {"s": [1], "a": [1], "b": [2]})
    return model, data(4), 12 + 9 + 2 * 3 + 2 * 2


def tied():
    model = nn.Sequential(Linear(4, 4), nn.ReLU(), Linear(4, 4), nn.ReLU(), Linear(4, 4), nn.ReLU(), Linear(4, 2))
    model[2].weight = model[0].weight
    return alive(model, {"0": [0], "2": [0], "4": [1]}), data(4), 16 + 3 * 4 + 2 * 3


def chain(*between: nn.Module | Callable, shape: tuple = (4,), first=None, features: int = 6, dead=(0, 1), left=None):
    """A layer ``a`` of 6 units, ``between``, and a linear layer ``b``; ``left`` is how many weights are."""

    def forward(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        for step, function in enumerate(between):
            x = net.get_submodule(f"m{step}")(x) if isinstance(function, nn.Module) else function(net, x)
        return net.b(x)

    modules = {f"m{step}": module for step, module in enumerate(between) if isinstance(module, nn.Module)}
    model = Net(forward, a=first or Linear(4, 6), **modules, b=Linear(features, 2))
    model = alive(model, {"a": list(dead)})
    return model, data(*shape), PrunableSet(model).dimension if left is None else left


def scaled_zero_channel(shift: float, *after: nn.Module, left: int | None = None):
    """A channel of zeros (no weights, no bias) that batch normalisation shifts."""
    model = alive(nn.Sequential(C2(1, 3, 2), BN2(3), *after, C2(3, 2, 1)), {})
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0], model[1].bias[0] = 0, 0, shift
    return model, data(1, 3, 3), 12 + 6 if left is None else left


def hooked(where: str, change: Callable, before: bool = False):
    model = alive(nn.Sequential(Linear(4, 6), nn.ReLU(), Linear(6, 2)), {"0": [0]})
    module = model.get_submodule(where)
    (module.register_forward_pre_hook if before else module.register_forward_hook)(change)
    return model, data(4), 36


def all_dead():
    model = nn.Sequential(Linear(4, 3), nn.ReLU(), Linear(3, 4), nn.ReLU(), Linear(4, 2))
    return alive(model, {"0": [0, 1, 2], "2": [3]}), data(4), 4 + 3 + 6


def weight_normed():
    model = nn.Sequential(Linear(4, 3), nn.ReLU(), Linear(3, 3), nn.ReLU(), Linear(3, 2))
    parametrizations.weight_norm(model[0].double())
    return alive(model, {"0": [1], "2": [0]}), data(4), 2 * 3 + 2 * 2


# The weight of a layer that computes it is refused.
PRUNABLE = {"weight_norm": ["2.weight", "4.weight"]}


def alias():
    model = Net(lambda n, x: n.b(relu(n.other(x))), b=Linear(3, 2), a=Linear(4, 3))
    model.other = model.a
    return alive(model, {"a": [0]}), data(4), 8 + 4


def grouped():
    model = nn.Sequential(
        C2(2, 4, 1), nn.ReLU(), C2(4, 4, 1, groups=2), nn.ReLU(), C2(4, 3, 2), nn.ReLU(), nn.Flatten(), Linear(3, 2)
    )
    return alive(model, {"0": [0, 1], "2": [1], "4": [2]}), data(2, 2, 2), 8 + 8 + 4 * 4 * 2 + 4


def transposed():
    model = nn.Sequential(nn.ConvTranspose2d(2, 4, 2), nn.ReLU(), C2(4, 3, 2), nn.ReLU(), nn.Flatten(), Linear(12, 2))
    return alive(model, {"0": [0], "2": [1]}), data(2, 2, 2), 32 + 2 * 16 + 16


def embedded(*shape: int, left: int):
    model = Net(lambda n, x: n.b(relu(n.a(n.e(x)))), e=nn.Embedding(5, 4), a=Linear(4, 3), b=Linear(3, 2))
    return (
        alive(model, {"a": [0]}),
        torch.randint(5, (SAMPLES, *shape), generator=torch.Generator().manual_seed(0)),
        left,
    )


def net(function: Callable, dead: dict[str, list[int]], left: int, **layers: nn.Module):
    layers = {"a": Linear(4, 3), "b": Linear(3, 2)} | layers
    return alive(Net(function, **layers), dead), data(4), left


def pair():
    model = Pair(
        lambda n, x, y: n.d(relu(n.a(x)) + n.c(relu(n.b(y)))),
        d=Linear(3, 2),
        a=Linear(4, 3),
        b=Linear(3, 3),
        c=Linear(3, 3),
    )
    return alive(model, {"a": [0], "b": [1]}), (data(4), data(3)), 6 + 12 + 6 + 6


def optional(*more: Tensor, left: int):
    model = alive(Optional(None, a=Linear(4, 3), b=Linear(3, 2)), {"a": [0]})
    return model, (data(4), *more), left


def nested():
    model = nn.Sequential(nn.Sequential(Linear(4, 3), nn.ReLU()), nn.Sequential(nn.Dropout(), Linear(3, 2)))
    return alive(model, {"0.0": [0]}), zeroed(data(4), 1, 2, 3), 2 + 4


conv1, on_images = partial(C1, 1, 6, 3), {"shape": (1, 6), "features": 24, "left": 12 + 4 * 8}

flat = nn.Flatten()

CASES: dict[str, Callable] = {
    "fc": fc,
    "lenet": lenet,
    "residual_block": residual,
    "all_dead": all_dead,
    "nested": nested,
    "tied": tied,
    "tied_backwards": tied_backwards,
    "zero_inputs": partial(zero_inputs, 0, 2, left=4 + 4),
    "only_zero_inputs": partial(zero_inputs, 0, 1, 2, 3, left=2 + 4),
    "zero_channel": lambda: (
        alive(nn.Sequential(C2(3, 2, 2, padding=1), nn.ReLU(), C2(2, 2, 2)), {}), zeroed(data(3, 3, 3), 1), 16 + 16
    ),
    "called_twice": twice,
    "two_names": alias,
    "groups": grouped,
    "transposed": transposed,
    "weight_norm": weight_normed,
    "two_inputs": pair,
    "embedding": partial(embedded, left=8 + 4),
    "embedding_of_sequences": partial(embedded, 3, left=18),
    "unused_layer": partial(net, lambda n, x: n.b(relu(n.a(x))), {"a": [0]}, 8 + 4, unused=Linear(7, 7)),
    "defined_backwards": lambda: (
        alive(Net(lambda n, x: n.b(relu(n.z(x))), b=Linear(3, 2), z=Linear(4, 3)), {"z": [0]}), data(4), 8 + 4
    ),
    "optional_argument": partial(optional, left=8 + 4),
    "optional_argument_given": lambda: optional(data(3), left=18),
    # what may stand between two layers
    "sigmoid": lambda: chain(nn.Sigmoid(), dead=(), left=36),
    "gelu": lambda: chain(lambda n, x: F.gelu(x), left=4 * 4 + 4 * 2),
    "flatten_functional": lambda: chain(lambda n, x: torch.flatten(F.relu(x), 1), first=conv1(), **on_images),
    "flatten_method": lambda: chain(lambda n, x: x.relu().flatten(1), first=conv1(), **on_images),
    "view": lambda: chain(lambda n, x: relu(x).view(-1, 24), first=conv1(), **on_images | {"left": 18 + 48}),
    "max_pool": lambda: chain(
        nn.ReLU(inplace=True), lambda n, x: F.max_pool1d(x, 2), flat, first=conv1(), shape=(1, 6), features=12, left=28
    ),
    "average_pool": lambda: chain(
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), flat, first=C2(1, 6, 2), shape=(1, 3, 3), left=4 * 4 + 4 * 2
    ),
    "norm_before_flatten": lambda: chain(BN1(6), nn.ReLU(), flat, first=conv1(), **on_images),
    "norm_after_flatten": lambda: chain(nn.ReLU(), flat, BN1(24), nn.ReLU(), first=conv1(), **on_images | {"left": 66}),
    "plain_norm_after_flatten": lambda: chain(nn.ReLU(), flat, BN1(24, affine=False), first=conv1(), **on_images),
    "pool_after_flatten": lambda: chain(
        nn.ReLU(), flat, nn.AdaptiveAvgPool1d(12), first=conv1(), shape=(1, 6), features=12
    ),
    "pool_over_features": lambda: chain(nn.ReLU(), nn.AdaptiveAvgPool1d(12), features=12),
    "smooth_over_features": lambda: chain(nn.ReLU(), nn.AvgPool1d(3, 1, 1), dead=(0, 1, 2)),
    "sequences": lambda: chain(nn.ReLU(), shape=(3, 4)),
    "sequences_flattened": lambda: chain(nn.ReLU(), flat, shape=(3, 4), features=18, dead=(0, 1, 2)),
    "bias_used_alone": lambda: chain(lambda n, x: relu(x), lambda n, x: x * n.a.bias[1]),
    "bias_used_beside": partial(net, lambda n, x: n.b(relu(n.a(x))) + n.a.bias[1], {"a": [0]}, 18),
    "norm_used_beside": partial(
        net, lambda n, x: n.b(relu(n.n(n.a(x)))) * n.n.weight[:2], {"a": [0]}, 18, n=BN1(3)
    ),
    "weight_used_beside": partial(net, lambda n, x: n.b(relu(n.a(x))) + 0 * n.a.weight.sum(), {"a": [0]}, 18),
    "skipped": partial(net, lambda n, x: (lambda h: n.b(h) + h[:, :2])(relu(n.a(x))), {"a": [0]}, 18),
    "control_flow": partial(net, lambda n, x: n.b(relu(n.a(x))) if x.sum() < 1e9 else x, {"a": [0]}, 18),
    "norm_shifts_zero": lambda: scaled_zero_channel(1.0, nn.ReLU()),
    "norm_shifts_zero_below": lambda: scaled_zero_channel(-1.0, nn.ReLU(), left=2 * 4 + 2 * 2),
    "norm_shifts_zero_no_relu": lambda: scaled_zero_channel(-1.0),
    "zero_but_not_dead": lambda: scaled_zero_channel(0.0),
    # hooks
    "hook_on_layer": lambda: hooked("0", lambda module, inputs, output: output + 1),
    "hook_on_next_layer": lambda: hooked("2", lambda module, inputs: (inputs[0] + 1,), before=True),
    "hook_per_unit": lambda: hooked("1", lambda module, inputs, output: output * torch.arange(1.0, 7.0)),
    "attention": lambda: (
        alive(nn.Sequential(nn.TransformerEncoderLayer(4, 2, 3, batch_first=True), Linear(4, 2)), {"0.linear1": [0]}),
        data(3, 4), 16 + 12 + 12 + 8,
    ),
}  # fmt: skip
