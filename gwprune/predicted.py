"""What a prediction can be asked for beside its numbers: a table, a file, a figure, and whether it holds."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from .curvature.by_layer import by_layer
from .curvature.checks import check_loss
from .curvature.operator import curvature_operator
from .measured import PrunedLoss
from .network.losses import BatchLoss
from .network.modes import eval_mode
from .spectral.lanczos import Jacobi
from .spectral.spectrum import ProbeSpectrum, Spectrum
from .storage.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Check", "LayerSensitivity", "Predicted", "Sensitivity"]

_FORMAT = 1
_PROBE = ("dimension", "active", "semidefinite", "precision", "roundings")
# From this share of small weights on, `width` was within 0.02 of the measured limit; at three quarters 0.05 off.
_EMPTIED = 0.9
# Between these multiples of epsilon, a measured rise is what the local model says.
_HOLDS = (0.5, 2.0)


@dataclass(frozen=True)
class Check:
    """A predicted threshold beside the network itself. See :meth:`gwprune.Prediction.check`.

    Attributes:
        epsilon: loss tolerance, in units of the loss as all that follows.
        dense_loss: of the dense network.
        sparsities: lower end, predicted threshold, upper end.
        rises: by how much the loss of the network, pruned to these, exceeds the dense one.
    """

    epsilon: float
    dense_loss: float
    sparsities: tuple[float, float, float]
    rises: tuple[float, float, float]

    @property
    def inside(self) -> bool:
        """Whether the loss breaks between the two ends, or nowhere where the upper end is 1."""
        return self.rises[0] <= self.epsilon and (self.epsilon < self.rises[2] or self.sparsities[2] == 1)

    @property
    def holds(self) -> bool:
        """Whether the local model holds at the threshold.

        So it does when the loss rises there by half of epsilon to twice epsilon, or breaks between the ends.
        """
        low, high = _HOLDS
        return self.inside or low * self.epsilon <= self.rises[1] <= high * self.epsilon

    def __str__(self) -> str:
        lines = [f"{'sparsity':>10} {'rise of the loss':>18} {'in epsilon':>12}"]
        for sparsity, rise in zip(self.sparsities, self.rises, strict=True):
            lines.append(f"{sparsity:10.4f} {rise:18.4g} {rise / self.epsilon:12.2f}")
        if self.holds:
            lines.append("the local model holds at the predicted threshold")
        elif self.rises[1] < self.epsilon:
            lines.append("the local model does not hold: the network can be pruned further than predicted")
        else:
            lines.append("the local model does not hold: the loss breaks before the predicted threshold")
        return "\n".join(lines)


@dataclass(frozen=True)
class LayerSensitivity:
    """One tensor of the prunable set, pruned by the mask at the predicted threshold.

    Attributes:
        name: of the parameter.
        weights: number of its elements.
        removed: number of those that the mask removes.
        share: of all weights that the mask removes.
        trace: of its block of the curvature, estimated.
        trace_standard_error: of the estimate, over random probes.
        rise: its part of the rise of the loss in the local quadratic model.
    """

    name: str
    weights: int
    removed: int
    share: float
    trace: float
    trace_standard_error: float
    rise: float


@dataclass(frozen=True)
class Sensitivity:
    """What each layer has to do with the predicted limit. See :meth:`gwprune.Prediction.sensitivity`.

    The parts add up to the rise in the quadratic model, as every layer has half of what it shares with another one. The
    rises of layers that are pruned one at a time do not add up; what all of them cost together is ``measured``.

    Attributes:
        threshold: the predicted one.
        epsilon: loss tolerance, in units of the loss as all that follows.
        layers: every tensor of the prunable set.
        measured: rise of the loss when all layers are pruned by the mask.
    """

    threshold: float
    epsilon: float
    layers: tuple[LayerSensitivity, ...]
    measured: float

    @property
    def rise(self) -> float:
        """Of the loss in the local quadratic model, by the whole mask."""
        return sum(layer.rise for layer in self.layers)

    def __str__(self) -> str:
        longest = max(len("all together"), *(len(layer.name) for layer in self.layers))
        lines = [f"{'':<{longest}} {'weights':>12} {'sparsity':>9} {'of mask':>8} {'trace':>10} {'rise':>10}"]
        for layer in self.layers:
            part = layer.removed / layer.weights
            numbers = f"{layer.weights:12,} {part:9.4f} {layer.share:8.1%} {layer.trace:10.3g} {layer.rise:10.3g}"
            lines.append(f"{layer.name:<{longest}} {numbers}")
        lines.append(f"{'all together':<{longest}} {self.rise:53.3g}")
        lines.append(f"{'measured':<{longest}} {self.measured:53.3g}")
        return "\n".join(lines)


class Predicted:
    """What :class:`gwprune.Prediction`, a dataclass with a spectrum and pruned norms, can do with its fields."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The fields, which the dataclass declares."""

    def __str__(self) -> str:
        chance = f", standard error {self.standard_error:.2g}" if self.standard_error else ""
        deviates = f", standard error {self.epsilon_standard_error:.2g}" if self.epsilon_standard_error else ""
        lines = [
            ("threshold", f"{self.threshold:.4f} [{self.lower:.4f}, {self.upper:.4f}]"),
            *self._advice(),
            ("weights", f"{self.dimension:,} prunable"),
            ("samples", f"{self.samples:,}"),
            ("epsilon", f"{self.epsilon:.4g}{deviates}"),
            ("predictor", f"{self.predictor}, {self.operator}; {self.method} pruning"),
            ("products", f"{self.probes} x {self.steps}{chance}" if self.probes else str(self.steps)),
        ]
        if self.interrupted:
            lines.append(("", "interrupted: more products make it narrower"))
        if self.tolerance_met is not None:
            lines.append(("tolerance", "met" if self.tolerance_met else "not met: more steps make it narrower"))
        lines.append(("checks", ", ".join(self.checks) or "none"))
        return "\n".join(f"{name:<10} {text}" for name, text in lines)

    def _advice(self) -> list[tuple[str, str]]:
        """Beside a threshold of `width`: that of `quadratic`, and which of the two to go by."""
        if self.quadratic is None:
            return []
        beside = ("quadratic", f"{self.quadratic:.4f}")
        if self.method != "magnitude":  # nothing is known of others
            return [beside]
        small = f"{self.emptied:.0%} of the weights are below a thousandth of the largest"
        if self.emptied >= _EMPTIED:
            advice = f"{small}, as l1 leaves them:", "on such networks both were within 0.02 of the measured limit"
        elif self.quadratic <= self.threshold:
            advice = f"go by quadratic: only {small};", "without l1, width was far above the measured limit"
        else:
            advice = "measure it: quadratic is above width, as on networks", "that are far from a minimum of the loss"
        return [beside, ("advice", advice[0]), ("", advice[1])]

    def to_dict(self) -> dict[str, Any]:
        """All public attributes, as JSON can hold them."""
        return {
            item.name: _plain(getattr(self, item.name))
            for item in dataclasses.fields(type(self))  # type: ignore[arg-type]
            if not item.name.startswith("_")
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write everything, for :func:`gwprune.load_prediction`: one npz file of 8 bytes a prunable weight.

        Its entry ``header`` is JSON, with :meth:`to_dict` as ``prediction``; ``norms`` are the pruned norms, and
        ``alpha_0``, ``beta_0``, ... the coefficients of the probes, ``eigenvalues_0`` those of a spectrum that is
        known.

        Args:
            path: of the file.
        """
        probes = self._spectrum.probes if self._spectrum is not None else ()
        header = {
            "gwprune": "prediction",
            "format": _FORMAT,
            "prediction": self.to_dict(),
            "probes": [{name: _plain(getattr(probe, name)) for name in _PROBE} for probe in probes],
        }
        arrays = {f"alpha_{number}": probe.jacobi.alpha for number, probe in enumerate(probes)}
        arrays |= {f"beta_{number}": probe.jacobi.beta for number, probe in enumerate(probes)}
        for number, probe in enumerate(probes):
            if probe.eigenvalues is not None:
                arrays[f"eigenvalues_{number}"] = probe.eigenvalues
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, header=json.dumps(header), norms=self._norms, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read what :meth:`save` wrote.

        Args:
            path: of the file.

        Raises:
            ValueError: naming the file, when it is no complete file of a prediction by this version.
            OSError: when it cannot be opened.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                values = {name: file[name] for name in file.files}
            header = json.loads(str(values["header"]))
            if (header["gwprune"], header["format"]) != ("prediction", _FORMAT):
                raise ValueError(f"format {header['format']}")
            probes = tuple(
                ProbeSpectrum(
                    Jacobi(values[f"alpha_{number}"], values[f"beta_{number}"]),
                    eigenvalues=values.get(f"eigenvalues_{number}"),
                    **probe,
                )
                for number, probe in enumerate(header["probes"])
            )
            spectrum = Spectrum(probes) if probes else None
            return _restored(cls, {**header["prediction"], "_norms": values["norms"], "_spectrum": spectrum})
        except OSError:
            raise
        except Exception as error:  # whatever a file of another kind makes of this
            raise ValueError(f"{path} is no complete file of a prediction by this version of gwprune") from error

    def plot(self, *paths: str | os.PathLike) -> Figure:
        """Draw the width curve, the threshold where it meets the sparsity, and the layers' sparsities there.

        Of a predictor without a spectrum (``quadratic``) the layers alone.

        Args:
            *paths: where to save the figure, if anywhere; the suffix of each names its format.
        """
        # It takes a second, and few predictions are drawn.
        from .figures.thresholds import prediction  # noqa: PLC0415

        title = f"predicted threshold ({self.predictor}, {self.operator}, ε = {self.epsilon:.3g})"
        curve = self.curve() if self._spectrum is not None else None
        layers = {layer.name: layer.sparsity for layer in self.layers}
        return prediction(curve, (self.threshold, self.lower, self.upper), layers, title, *paths)

    def check(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor] | None,
        data: Any,
        *,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        weight: Callable[[Any], Any] | None = None,
        samples: int | None = None,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> Check:
        """Prune the network to the predicted threshold and both ends, and look at its loss there.

        Four passes over the data say whether the local model, from which the prediction is made, holds so far from
        the dense weights. An interval is about the model's own uncertainty alone. What the loss may be after further
        training, as ``statistical_dimension`` predicts it, they do not say.

        Args:
            model: the network of the prediction; its weights come back, also after an error or an interrupt.
            loss_fn: as for the prediction, as the next four.
            data: see there.
            forward: see there.
            weight: see there.
            samples: see there.
            batch_size: samples per pass; by default those of the DataLoader, else 128.
            device: where to compute (the model is moved); by default where it is.
            seed: as for the prediction.

        Raises:
            ValueError: for another network than that of the prediction, or a loss that is no mean over samples, unless
                the prediction was made with ``checks=False``.
        """
        given: dict[str, Any] = {"samples": samples, "batch_size": batch_size, "device": device, "seed": seed}
        loss = self._pruned_loss(model, BatchLoss(loss_fn, forward, weight), data, **given)
        sparsities = (self.lower, self.threshold, self.upper)
        dense = loss.dense()
        lower, middle, upper = (loss(sparsity) - dense for sparsity in sparsities)
        return Check(self.epsilon, dense, sparsities, (lower, middle, upper))

    def sensitivity(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor] | None,
        data: Any,
        *,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        weight: Callable[[Any], Any] | None = None,
        samples: int | None = None,
        probes: int = 8,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> Sensitivity:
        """How much each layer has to do with the predicted limit: ``probes`` + 1 products, a gradient, two passes.

        Args:
            model: the network of the prediction; its weights come back, also after an error or an interrupt.
            loss_fn: as for the prediction, as the next four.
            data: see there.
            forward: see there.
            weight: see there.
            samples: see there.
            probes: number of random vectors behind the traces, at least 2.
            batch_size: samples per pass; by default as :meth:`check` and :func:`gwprune.curvature_operator` choose.
            device: where to compute (the model is moved); by default where it is.
            seed: of the random vectors, and as for the prediction.

        Raises:
            ValueError: for another network than that of the prediction, fewer than 2 probes, and what
                :func:`gwprune.curvature_operator` refuses.
        """
        given: dict[str, Any] = {"samples": samples, "batch_size": batch_size, "device": device, "seed": seed}
        loss = self._pruned_loss(model, BatchLoss(loss_fn, forward, weight), data, **given)
        given |= {"forward": forward, "weight": weight, "operator": self.operator, "prunable": loss.prunable}
        with eval_mode(model):
            operator = curvature_operator(model, loss_fn, data, **given)
            found = by_layer(operator, loss.removed(self.threshold), probes, seed)
        rows = [
            LayerSensitivity(layer.name, layer.weights, layer.removed, layer.share, **vars(curvature))
            for layer, curvature in zip(self.layers, found, strict=True)
        ]
        return Sensitivity(self.threshold, self.epsilon, tuple(rows), loss(self.threshold) - loss.dense())

    def _pruned_loss(self, model: nn.Module, loss: BatchLoss, data: Any, **given: Any) -> PrunedLoss:
        """The loss of the network of the prediction; any other is refused."""
        own = [layer.name for layer in self.layers]
        other = ValueError(
            "these are not the weights of the prediction: pruning them removes another norm; give the network as it"
            " was predicted, before it is pruned or trained further"
        )
        if isinstance(model, nn.Module):
            names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
            if not names.issuperset(own):
                raise other
        found = PrunedLoss(model, loss, data, method=self.method, prunable=own, **given)
        if found.prunable.dimension != self.dimension:
            raise other
        removed, norm = found.removed(self.threshold).double().norm(), float(self.pruned_norm(self.threshold))
        if not math.isclose(float(removed), norm, rel_tol=1e-4, abs_tol=1e-12):
            raise other
        if self.checks:  # which the prediction's loss passed
            check_loss(model, loss, found.data)
        return found


def _plain(value: Any) -> Any:
    """The value as JSON can hold it."""
    if dataclasses.is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _restored(kind: Any, value: Any) -> Any:
    """The value of a type that :func:`_plain` made plain."""
    if isinstance(kind, types.UnionType):
        fitting = [part for part in typing.get_args(kind) if part is not type(None)]
        return value if value is None or len(fitting) > 1 else _restored(fitting[0], value)
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        each = [parts[0]] * len(value) if parts[-1] is ... else parts
        return tuple(_restored(part, item) for part, item in zip(each, value, strict=True))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _restored(hints[name], item) for name, item in value.items()})
    return value
