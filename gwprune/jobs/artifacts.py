"""Files between the stages that are no tables: networks, rankings, Lanczos runs. Each names what it holds."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import models
from ..network.prunable import PrunableSet
from ..pruning import GemSearch, Ranking, removed_count
from ..spectral.lanczos import Jacobi
from ..spectral.width import ProbeSpectrum
from ..storage.files import atomic_path, save_tensors

__all__ = [
    "ArtifactError",
    "SparseState",
    "build_network",
    "load_description",
    "load_network",
    "load_probe",
    "load_ranking",
    "load_sparse",
    "load_state",
    "save_network",
    "save_probe",
    "save_ranking",
    "save_sparse",
]

_FORMAT = 1
_PROBE_FORMAT = 2


class ArtifactError(Exception):
    """A file between stages is missing, damaged, foreign, or does not fit. The message names it."""


def _save(path: str | os.PathLike, kind: str, values: Mapping[str, Any]) -> None:
    save_tensors(path, {"gwprune": kind, "format": _FORMAT, **values})


def _load(path: str | os.PathLike, kind: str) -> dict[str, Any]:
    path = Path(path)
    if not path.exists():
        raise ArtifactError(f"{path} does not exist")
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compare the checksums
            broken = archive.testzip()
        if broken:
            raise zipfile.BadZipFile(broken)
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no common base for what a damaged file raises  # noqa: BLE001
        raise ArtifactError(
            f"{path} ({path.stat().st_size} bytes) is no complete {kind} file: {type(error).__name__};"
            " delete it and run again"
        ) from error
    if not isinstance(values, dict) or values.get("gwprune") != kind:
        raise ArtifactError(f"{path} is no {kind} file of gwprune")
    if values.get("format") != _FORMAT:
        raise ArtifactError(
            f"{path} has format {values.get('format')}, this version reads {_FORMAT}; delete it and run again"
        )
    return values


def save_network(path: str | os.PathLike, model: nn.Module, description: Mapping[str, Any], **more: Any) -> None:
    """Write weights and buffers with ``description``: name, options, input_shape, classes of the network."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    _save(path, "network", {"description": dict(description), "state": state, **more})


def load_state(model: nn.Module, state: Mapping[str, Any], source: str | os.PathLike) -> None:
    """Load ``state`` into ``model``.

    Raises:
        ArtifactError: naming ``source`` and the first tensors that are missing, too many, or of another shape.
    """
    own = model.state_dict()
    faults = [f"{name} is missing" for name in own if name not in state]
    faults += [f"{name} is not part of the network" for name in state if name not in own]
    faults += [
        f"{name} has shape {tuple(state[name].shape)}, the network {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ArtifactError(f"{source} does not fit the network {type(model).__name__}: {'; '.join(faults[:3])}{more}")
    model.load_state_dict(state)


def load_network(path: str | os.PathLike, device: torch.device | str = "cpu") -> nn.Module:
    """Build the network that a file describes and load its weights; in eval mode on ``device``.

    Raises:
        ArtifactError: naming the file.
    """
    return _network(_load(path, "network"), path, device)


def load_description(path: str | os.PathLike) -> dict[str, Any]:
    """What a network file says of its network: name, options, input_shape, classes.

    Raises:
        ArtifactError: naming the file.
    """
    return _load(path, "network")["description"]


def build_network(description: Mapping[str, Any]) -> nn.Module:
    """The described network with weights from torch's global generator."""
    shape, classes = tuple(description["input_shape"]), description["classes"]
    return models.build(description["name"], shape, classes, **description["options"])


def _network(values: Mapping[str, Any], path: str | os.PathLike, device: torch.device | str) -> nn.Module:
    try:
        model = build_network(values["description"])
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: its network cannot be built: {error}") from error
    load_state(model, values["state"], path)
    return model.to(device).eval()


@dataclass
class SparseState:
    """A network between two levels of an iterative method.

    Attributes:
        description: of the network, as its file has it.
        kept: boolean mask (D,).
        momentum: parameter name -> momentum buffer; empty at a fresh start.
        removed: sum of the squares of the weights as they were when they were removed.
        epochs: of training, from initialisation on.
        search: where a search for a mask stands.
    """

    model: nn.Module
    description: dict[str, Any]
    kept: Tensor
    momentum: dict[str, Tensor] = field(default_factory=dict)
    removed: float = 0.0
    epochs: float = 0.0
    search: GemSearch | None = None


def save_sparse(path: str | os.PathLike, state: SparseState) -> None:
    """Write a network file that holds the state of an iterative method too."""
    sparse = {
        "kept": state.kept.cpu(),
        "momentum": {name: tensor.cpu() for name, tensor in state.momentum.items()},
        "removed": state.removed,
        "epochs": state.epochs,
        "search": None if state.search is None else _on(state.search, "cpu"),
    }
    save_network(path, state.model, state.description, sparse=sparse)


def load_sparse(
    path: str | os.PathLike,
    device: torch.device | str = "cpu",
    epochs: float = 0.0,
    sparsity: float | None = None,
) -> SparseState:
    """Read what :func:`save_sparse` wrote; of another network file, the state of which nothing is pruned.

    Args:
        epochs: what such a network was trained for.
        sparsity: that the state must have.

    Raises:
        ArtifactError: naming the file, also when it has another sparsity.
    """
    values = _load(path, "network")
    model, description, sparse = _network(values, path, device), values["description"], values.get("sparse")
    dimension = PrunableSet(model).dimension
    if sparse is None:
        everything = torch.ones(dimension, dtype=torch.bool, device=device)
        return SparseState(model, description, everything, epochs=epochs)
    if len(sparse["kept"]) != dimension:
        raise ArtifactError(f"{path} masks {len(sparse['kept'])} weights, the network has {dimension} prunable ones")
    removed = int((~sparse["kept"]).sum())
    if sparsity is not None and removed != removed_count(sparsity, dimension):
        wanted = removed_count(sparsity, dimension)
        raise ArtifactError(f"{path} removes {removed} weights; at sparsity {sparsity} they should be {wanted}")
    return SparseState(
        model,
        description,
        sparse["kept"].to(device),
        {name: tensor.to(device) for name, tensor in sparse["momentum"].items()},
        sparse["removed"],
        sparse["epochs"],
        None if sparse["search"] is None else GemSearch(**_on(sparse["search"], device)),
    )


def _on(search: GemSearch | Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    values = search if isinstance(search, Mapping) else vars(search)
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in values.items()}


def save_ranking(path: str | os.PathLike, ranking: Ranking, method: str, signature: str = "") -> None:
    """Write a ranking as int32 ranks, with the ``signature`` of the prunable set that it ranks."""
    values = {"method": method, "signature": signature, "ranks": ranking.ranks.cpu().to(torch.int32)}
    _save(path, "ranking", values)


def load_ranking(path: str | os.PathLike, dimension: int, signature: str = "", method: str = "") -> Ranking:
    """Read a ranking of ``dimension`` weights; a given ``signature`` and ``method`` must be those of the file.

    Raises:
        ArtifactError: naming the file, when it belongs to another network or method.
    """
    values = _load(path, "ranking")
    ranks = values["ranks"]
    if len(ranks) != dimension:
        raise ArtifactError(f"{path} ranks {len(ranks)} weights, the network has {dimension} prunable ones")
    if signature and values["signature"] != signature:
        raise ArtifactError(f"{path} ranks the weights of another network: its layers have other names or shapes")
    if method and values["method"] != method:
        raise ArtifactError(f"{path} is a ranking by {values['method']!r}, not by {method!r}")
    try:
        return Ranking(ranks)
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from error


def save_probe(path: str | os.PathLike, probe: ProbeSpectrum) -> None:
    """Write the raw Jacobi coefficients of a probe (npz: alpha, beta, dimension, active, semidefinite)."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(
            stream,
            format=_PROBE_FORMAT,
            alpha=probe.jacobi.alpha,
            beta=probe.jacobi.beta,
            dimension=probe.dimension,
            active=probe.active,
            semidefinite=probe.semidefinite,
            precision=probe.precision,
        )


def load_probe(path: str | os.PathLike) -> ProbeSpectrum:
    """Read what :func:`save_probe` wrote.

    Raises:
        ArtifactError: naming the file.
    """
    try:
        with np.load(path, allow_pickle=False) as values:
            if int(values["format"]) != _PROBE_FORMAT:
                raise ArtifactError(f"{path} has format {int(values['format'])}, this version reads {_PROBE_FORMAT}")
            return ProbeSpectrum(
                Jacobi(values["alpha"], values["beta"]),
                int(values["dimension"]),
                int(values["active"]),
                bool(values["semidefinite"]),
                float(values["precision"]),
            )
    except ArtifactError:
        raise
    except Exception as error:
        raise ArtifactError(f"{path} is no complete spectrum file: {error}; delete it and run again") from error
