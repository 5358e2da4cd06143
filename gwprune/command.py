"""The work of `gwprune predict`: a network of one's own, from its builder and weights to its prediction and file."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn import functional

from .measured import measure_loss, measure_threshold
from .names import choice, function_of
from .network.losses import accuracy_drop
from .network.samples import LABELS, read_samples
from .predict import predict_threshold
from .pruned import check_path, prune, save_pruned
from .storage.states import load_state, read_weights

__all__ = ["predict_and_prune"]

# Those of torch that are a mean over samples, that of the network's output, and a user's.
_LOSSES = (
    "binary_cross_entropy_with_logits", "cross_entropy", "huber_loss", "mse_loss", "nll_loss", "smooth_l1_loss",
    "own", "module:function",
)  # fmt: skip


def predict_and_prune(
    network: str,
    data: str,
    *,
    weights: str | None = None,
    loss: str = "cross_entropy",
    measure: bool = False,
    save: str | None = None,
    plot: str | None = None,
    sparsity: float | str | None = None,
    out: str | None = None,
    device: str | None = None,
    epsilon: str | float = "batch_std",
    prunable: list[str] | None = None,
    samples: int | None = None,
    method: str = "magnitude",
    seed: int = 0,
    **options: Any,
) -> None:
    """Predict, and as asked measure, save, draw and prune; results go to the standard output.

    Args:
        network: ``module:function`` that builds it, without arguments.
        data: ``module:function`` that gives what :func:`gwprune.predict_threshold` takes.
        weights: file of its ``state_dict``; None: the builder gives it trained.
        loss: name in `torch.nn.functional`, ``module:function``, or ``"own"``: what the network's output calls so.
        measure: whether to measure the threshold.
        save: file of the prediction.
        plot: file of the figure.
        sparsity: to prune to, or ``"predicted"`` for the predicted threshold; with ``out``.
        out: file of the pruned network; its mask goes to ``NAME.mask.pt`` and ``NAME.mask.json``.
        device: where to compute.
        epsilon: see :func:`gwprune.predict_threshold`.
        prunable: see there.
        samples: see there.
        method: see there.
        seed: see there.
        **options: ``predictor``, ``operator``, ``steps``, ``tolerance`` and ``checkpoint``, see there.

    Raises:
        ValueError: for a name or file that is not what it should be.
        ArtifactError: for weights that are not the network's.
    """
    if out is not None:
        check_path(out)
    loss_fn = function_of("loss", loss) if ":" in loss else getattr(functional, choice("loss", loss, _LOSSES), None)
    model = _network(network, weights)
    read = _called("data", data)
    given: dict[str, Any] = {"samples": samples, "device": device, "seed": seed}
    ranked: dict[str, Any] = {"prunable": prunable, "method": method}
    with warnings.catch_warnings():
        warnings.showwarning = _tell
        p = predict_threshold(model, loss_fn, read, epsilon=epsilon, **ranked, **given, **options)
        print(p)
        if save is not None:
            p.save(save)
        if plot is not None:
            p.plot(plot)
        if measure:
            # A drop of accuracy is measured as such; of others the number is known by now.
            limit = p.epsilon if accuracy_drop(epsilon) is None else epsilon
            print(f"\n{measure_threshold(model, loss_fn, read, limit, **ranked, **given)}")
        if sparsity is not None and out is not None:
            before = measure_loss(model, loss_fn, read, **given)
            chosen = p.threshold if sparsity == "predicted" else float(sparsity)
            mask = prune(model, chosen, method, seed=seed, prunable=[layer.name for layer in p.layers])
            report = save_pruned(model, mask, out, inputs=_one_input(model, loss_fn, read))
            mask.save(Path(out).with_suffix(".mask.pt"))
            after = measure_loss(model, loss_fn, read, **given)
            print(f"\n{report}\n{'loss':<14} {before:.6g} dense, {after:.6g} pruned")
            print(f"{'sparsities':<14} {Path(out).with_suffix('.mask.json')}")


def _one_input(model: nn.Module, loss_fn: Any, data: Any) -> Any:
    """One sample as the network takes it."""
    weight = next(model.parameters())
    one = read_samples(data, weight.device, dtype=weight.dtype, samples=1).some(1)
    if not isinstance(one, dict):
        return one[0]
    return one if loss_fn is None else {name: part for name, part in one.items() if name != LABELS}


def _called(what: str, name: str) -> Any:
    """What a user's function gives."""
    function = function_of(what, name)
    try:
        return function()
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        raise ValueError(f"{what} {name!r} failed: {type(error).__name__}: {first}") from error


def _network(network: str, weights: str | None) -> nn.Module:
    model = _called("network", network)
    if not isinstance(model, nn.Module):
        raise TypeError(f"network {network!r}: returned {type(model).__name__}, not a torch.nn.Module")
    if weights is not None:
        load_state(model, read_weights(weights), weights)
    return model.eval()


def _tell(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"gwprune: warning: {message}", file=sys.stderr)
