"""Controls for any mask: the same layer ratios with other weights, and the same mask on other initial weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..network.prunable import PrunableSet
from ..streams import stream

__all__ = ["layerwise_shuffle", "reinitialise"]


def layerwise_shuffle(values: Tensor, prunable: PrunableSet, seed: int) -> Tensor:
    """A mask or ranks, permuted at random within each layer: every layer keeps as many weights, but other ones.

    Su et al., Sanity-checking pruning methods: random tickets can win the jackpot (arXiv 2009.11094), and Frankle et
    al., Pruning neural networks at initialization: why are we missing the mark? (arXiv 2009.08576).

    Args:
        values: mask or ranks (D,).
        prunable: the D weights that they belong to.
        seed: of the permutations.

    Returns:
        Tensor like ``values``.

    Raises:
        ValueError: when ``values`` does not fit the prunable set.
    """
    if values.shape != (prunable.dimension,):
        raise ValueError(f"expected a mask of shape ({prunable.dimension},), got {tuple(values.shape)}")
    generator = stream(seed, "weights within layers")
    parts = values.split(prunable.sizes)
    return torch.cat([part[torch.randperm(len(part), generator=generator).to(part.device)] for part in parts])


def reinitialise(model: nn.Module, seed: int, build: Callable[[], nn.Module] | None = None) -> None:
    """Draw all parameters of ``model`` anew, in place, from ``seed``, and reset its buffers; a mask is not touched.

    The control of Frankle and Carbin (arXiv 1803.03635): a mask is worth as much on other initial weights, or not. The
    global random state stays as it was, and the weights do not depend on the device.

    Args:
        build: makes a network like ``model`` with its own initialisation, e.g. ``lambda: models.build(...)``. Without
            it every module's ``reset_parameters`` draws PyTorch's default, which many networks replace.

    Raises:
        ValueError: naming the module, when one has parameters but no ``reset_parameters`` and ``build`` is not given.
        RuntimeError: from PyTorch, when ``build`` makes another network.
    """
    before = torch.get_rng_state()
    # `torch.manual_seed` would seed every GPU's generator too.
    torch.default_generator.manual_seed(seed)
    try:
        fresh = build() if build is not None else _reset(copy.deepcopy(model).cpu())
    finally:
        torch.set_rng_state(before)
    model.load_state_dict(fresh.state_dict())


def _reset(model: nn.Module) -> nn.Module:
    for name, module in model.named_modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif next(module.parameters(recurse=False), None) is not None:
            raise ValueError(f"{name or type(module).__name__} has no reset_parameters: pass build to reinitialise")
    return model
