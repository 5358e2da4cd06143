"""Dead units taken out of a network: the same function on the same samples, with fewer weights to compute on.

A unit (or channel) is dead when what it hands to the next layer is zero on every sample, and the curvature's rows of
all its incoming and outgoing weights are exactly zero: then neither the samples nor a small change of any weight see
it. l1 training leaves many. The network's graph (torch.fx) tells which layer feeds which; what cannot be traced, or is
not a plain chain from one layer to the next, stays as it is.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..network.prunable import PrunableSet

__all__ = ["SmallerNetwork", "without_dead_units"]

# Each maps every feature on its own, and a feature of zeros may pass.
_POINTWISE_MODULES = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softplus,
    nn.Hardtanh, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, _BatchNorm,
)  # fmt: skip
_POINTWISE_FUNCTIONS = {
    torch.relu, functional.relu, functional.gelu, functional.silu, torch.tanh, torch.sigmoid, functional.dropout,
}  # fmt: skip
# Each maps every channel on its own when this many axes follow the channels.
_POOLS: dict[Any, int] = {
    functional.max_pool1d: 1, functional.max_pool2d: 2, functional.avg_pool1d: 1, functional.avg_pool2d: 2,
    functional.adaptive_avg_pool2d: 2,
    nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3, nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3,
    nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3,
    nn.AdaptiveMaxPool1d: 1, nn.AdaptiveMaxPool2d: 2, nn.AdaptiveMaxPool3d: 3,
}  # fmt: skip


@dataclass(frozen=True)
class SmallerNetwork:
    """A network without dead units.

    Attributes:
        model: the network.
        prunable: its weights that are prunable in the full network.
        index: (D',), where each of them stands among those of the full network.
    """

    model: nn.Module
    prunable: PrunableSet
    index: Tensor


@dataclass
class _Link:
    """Layer ``target`` takes, through maps of single channels, the output of ``source`` (None: the network's input)."""

    source: str | None
    target: str
    norms: list[str]


def _is_flatten(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        module = modules[node.target]
        return isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
    if node.target in (torch.flatten, "flatten"):
        return node.args[1:] == (1,) and not node.kwargs
    return False


def _is_pointwise(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[node.target], _POINTWISE_MODULES)
    return node.target in _POINTWISE_FUNCTIONS if node.op == "call_function" else node.target == "relu"


def _links(graph: fx.Graph, modules: dict[str, nn.Module], names: set[str]) -> Iterable[_Link]:
    """Chains between the layers ``names``, each called once, in which every step has one user."""
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    once = {name for name in calls if calls.count(name) == 1} - _fetched(graph)
    for node in graph.nodes:
        if node.op != "call_module" or node.target not in names & once:
            continue
        norms, pooled, before = [], set(), node.args[0] if node.args else None
        while isinstance(before, fx.Node) and len(before.users) == 1:
            module = modules[before.target] if before.op == "call_module" else None
            if before.op == "placeholder":
                yield _Link(None, node.target, [])
                break
            if module is not None and before.target in names:
                if before.target in once and pooled <= {module.weight.ndim - 2}:
                    yield _Link(before.target, node.target, norms)
                break
            if module is not None and _hooked(module):
                break
            pool = _POOLS.get(before.target if module is None else type(module))
            if pool is not None:
                pooled.add(pool)
            elif _is_flatten(before, modules):
                if pooled:  # they do not see channels
                    break
            elif not _is_pointwise(before, modules):
                break
            if isinstance(module, _BatchNorm):
                if before.target not in once:
                    break
                norms.append(before.target)
            before = before.args[0] if before.args else None


def _fetched(graph: fx.Graph) -> set[str]:
    """Modules whose parameters or buffers are used on their own."""
    return {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}


def _seen_inputs(model: nn.Module, names: set[str], run: Callable[[nn.Module], None]) -> dict[str, Tensor]:
    """Which input features of the layers ``names`` are ever not zero, for those whose features are always axis 1."""
    seen: dict[str, Tensor] = {}
    elsewhere, handles = set(), []
    for name in names:

        def look(module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            if inputs[0].ndim != module.weight.ndim:
                elsewhere.add(name)
                return
            used = (inputs[0] != 0).transpose(0, 1).flatten(1).any(dim=1)
            seen[name] = used | seen[name] if name in seen else used

        handles.append(model.get_submodule(name).register_forward_pre_hook(look))
    try:
        with torch.no_grad():
            run(model)
    finally:
        for handle in handles:
            handle.remove()
    return {name: used for name, used in seen.items() if name not in elsewhere}


class _Columns(nn.Module):
    """The features ``index`` of the network's input."""

    def __init__(self, index: Tensor):
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.index)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or getattr(module, "parametrizations", None))


def _plain(module: nn.Module) -> bool:
    """A layer whose outputs are axis 0 and inputs axis 1 of its weight, all connected, and nothing hooked to it."""
    if _hooked(module) or isinstance(module, _ConvTransposeNd):
        return False
    return type(module) is nn.Linear or (isinstance(module, _ConvNd) and module.groups == 1)


def without_dead_units(
    model: nn.Module, prunable: PrunableSet, zero: Tensor, run: Callable[[nn.Module], None]
) -> SmallerNetwork | None:
    """A copy of ``model`` without its dead units.

    Args:
        model: in eval mode; not changed.
        prunable: its prunable set, of size D.
        zero: (D,), which rows of the curvature are exactly zero.
        run: passes every sample through the module it is given.

    Returns:
        The smaller network; None when the network cannot be traced or has no dead unit.
    """
    try:
        arguments = inspect.signature(model.forward).parameters
        absent = {name: None for name, argument in arguments.items() if argument.default is None}
        twin = copy.deepcopy(model)
        traced = fx.symbolic_trace(twin, absent)
    except Exception:  # whatever Python a forward method runs may fail on symbolic values  # noqa: BLE001
        return None
    modules = dict(traced.named_modules())
    weights = {name.removesuffix(".weight"): parameter for name, parameter in traced.named_parameters()}
    own = {id(parameter) for parameter in PrunableSet(twin, prunable).parameters}
    if {name for name, parameter in traced.named_parameters() if id(parameter) in own} - set(prunable.names):
        return None  # shared under a name of its own
    names = {name.removesuffix(".weight") for name in prunable.names if name.endswith(".weight")}
    owners = [id(module.weight) for module in modules.values() if isinstance(getattr(module, "weight", None), Tensor)]
    names = {
        name
        for name in names
        if name in modules and name in weights and _plain(modules[name]) and owners.count(id(weights[name])) == 1
    }
    links = list(_links(traced.graph, modules, names))
    if not links:
        return None
    masks = dict(zip(prunable.names, prunable.unflatten(zero), strict=True))
    try:
        seen = _seen_inputs(traced, {name for link in links for name in (link.source, link.target) if name}, run)
    except Exception:  # traced for other arguments than those it gets  # noqa: BLE001
        return None
    outputs = {name: torch.ones(len(weights[name]), dtype=torch.bool, device=zero.device) for name in names}
    inputs = {name: torch.ones(weights[name].shape[1], dtype=torch.bool, device=zero.device) for name in names}
    for link in links:
        if link.target not in seen or (link.source is not None and link.source not in seen):
            continue
        rows = masks[f"{link.target}.weight"]
        dead = rows.transpose(0, 1).flatten(1).all(dim=1) & ~seen[link.target]
        channels = len(dead if link.source is None else outputs[link.source])
        if len(dead) % channels:
            continue
        dead = dead.view(channels, -1).all(dim=1)
        if link.source is not None:
            dead &= masks[f"{link.source}.weight"].flatten(1).all(dim=1)
        if dead.all():  # a layer without units is no layer
            dead[0] = False
        if link.source is not None:
            outputs[link.source] = ~dead
        inputs[link.target] = (~dead).repeat_interleave(len(inputs[link.target]) // channels)
        for norm in link.norms:
            _shrink_norm(modules[norm], (~dead).repeat_interleave(modules[norm].num_features // channels))
    if all(bool(kept.all()) for kept in (*outputs.values(), *inputs.values())):
        return None
    for name in names:
        _shrink_layer(modules[name], outputs[name], inputs[name])
    originals = {name: name for name, _ in traced.named_parameters() if name in masks}
    for link in links:
        if link.source is None and not inputs[link.target].all():
            small = nn.Sequential(_Columns(inputs[link.target].nonzero().flatten()), modules[link.target])
            parent, _, leaf = link.target.rpartition(".")
            setattr(traced.get_submodule(parent), leaf, small)
            # It stands behind that selection.
            originals[f"{link.target}.1.weight"] = originals.pop(f"{link.target}.weight")
    left = PrunableSet(traced, list(originals))
    positions = _positions([originals[name] for name in left.names], prunable, outputs, inputs)
    return SmallerNetwork(traced.eval(), left, positions)


def _shrink_norm(norm: nn.Module, kept: Tensor) -> None:
    norm.num_features = int(kept.sum())
    for name in ("weight", "bias"):
        if getattr(norm, name) is not None:
            setattr(norm, name, nn.Parameter(getattr(norm, name).detach()[kept]))
    for name in ("running_mean", "running_var"):
        if getattr(norm, name) is not None:
            setattr(norm, name, getattr(norm, name)[kept])


def _shrink_layer(layer: nn.Module, outputs: Tensor, inputs: Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight.detach()[outputs][:, inputs].clone())
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach()[outputs])
    sizes = ("out_features", "in_features") if isinstance(layer, nn.Linear) else ("out_channels", "in_channels")
    setattr(layer, sizes[0], int(outputs.sum()))
    setattr(layer, sizes[1], int(inputs.sum()))


def _positions(
    names: list[str], prunable: PrunableSet, outputs: dict[str, Tensor], inputs: dict[str, Tensor]
) -> Tensor:
    """Flat positions in the full set of what is left of its weights ``names``."""
    positions = dict(zip(prunable.names, prunable.unflatten(torch.arange(prunable.dimension)), strict=True))
    parts = []
    for name in names:
        grid, layer = positions[name], name.removesuffix(".weight")
        if layer in outputs:
            grid = grid[outputs[layer].cpu()][:, inputs[layer].cpu()]
        parts.append(grid.flatten())
    return torch.cat(parts)
