"""Files between jobs that are no tables: networks, rankings, Lanczos runs.

Each names what it holds, and the run and seed (`owner`, a job's ``key``) that it belongs to.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import models
from ..network.prunable import PrunableSet
from ..pruning import GemSearch, Ranking, removed_count
from ..storage.checkpoints import digest
from ..storage.files import atomic_path, save_tensors
from ..storage.owners import ArtifactError, refuse_foreign
from ..storage.states import load_state

if TYPE_CHECKING:
    from ..spectral.spectrum import ProbeSpectrum

__all__ = [
    "ArtifactError",
    "SparseState",
    "build_network",
    "load_network",
    "load_probe",
    "load_ranking",
    "load_sparse",
    "save_network",
    "save_probe",
    "save_ranking",
    "save_sparse",
    "weights_digest",
]

_FORMAT = 1
_PROBE_FORMAT = 2


Owner = Mapping[str, Any] | None


def _save(path: str | os.PathLike, kind: str, owner: Owner, values: Mapping[str, Any]) -> None:
    whose = {} if owner is None else {"owner": dict(owner)}
    save_tensors(path, {"gwprune": kind, "format": _FORMAT, **whose, **values})


def _load(path: str | os.PathLike, kind: str, owner: Owner) -> dict[str, Any]:
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
    refuse_foreign(path, values.get("owner"), owner)
    return values


def save_network(
    path: str | os.PathLike, model: nn.Module, description: Mapping[str, Any], *, owner: Owner = None, **more: Any
) -> None:
    """Write weights and buffers of a network.

    Args:
        path: of the file.
        model: the network.
        description: its name, options, input_shape and classes.
        owner: run and seed that it belongs to.
        **more: further entries of the file.
    """
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    _save(path, "network", owner, {"description": dict(description), "state": state, **more})


def load_network(path: str | os.PathLike, device: torch.device | str = "cpu", *, owner: Owner = None) -> nn.Module:
    """Build the network that a file describes, and load its weights.

    Args:
        path: of the file.
        device: where the network goes; it is in eval mode.
        owner: run and seed that the file must belong to; None: any.

    Raises:
        ArtifactError: naming the file, also when it belongs to another run or seed.
    """
    return _network(_load(path, "network", owner), path, device)


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
        model: the network.
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


def save_sparse(path: str | os.PathLike, state: SparseState, *, owner: Owner = None) -> None:
    """Write a network file that also holds the state of an iterative method; ``owner`` as in :func:`save_network`."""
    sparse = {
        "kept": state.kept.cpu(),
        "momentum": {name: tensor.cpu() for name, tensor in state.momentum.items()},
        "removed": state.removed,
        "epochs": state.epochs,
        "search": None if state.search is None else _on(state.search, "cpu"),
    }
    save_network(path, state.model, state.description, owner=owner, sparse=sparse)


def load_sparse(
    path: str | os.PathLike,
    device: torch.device | str = "cpu",
    epochs: float = 0.0,
    sparsity: float | None = None,
    *,
    owner: Owner = None,
) -> SparseState:
    """Read what :func:`save_sparse` wrote, or any network file, which is a state of which nothing is pruned.

    Args:
        path: of the file.
        device: where the tensors go.
        epochs: what a network without a state was trained for.
        sparsity: that the state must have; None: any.
        owner: run and seed that the file must belong to; None: any.

    Raises:
        ArtifactError: naming the file, also when it has another sparsity or belongs to another run or seed.
    """
    values = _load(path, "network", owner)
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


def weights_digest(prunable: PrunableSet) -> str:
    """Digest by which rankings and probes name the weights that they were made from."""
    return digest(*prunable.parameters)[:16]


def save_ranking(
    path: str | os.PathLike,
    ranking: Ranking,
    method: str,
    signature: str = "",
    *,
    owner: Owner = None,
) -> None:
    """Write a ranking as int32 ranks.

    Args:
        path: of the file.
        ranking: of the weights.
        method: that made it.
        signature: of the prunable set that it ranks.
        owner: what it belongs to: run, seed, and weights, see :func:`weights_digest`.
    """
    values = {"method": method, "signature": signature, "ranks": ranking.ranks.cpu().to(torch.int32)}
    _save(path, "ranking", owner, values)


def load_ranking(
    path: str | os.PathLike,
    dimension: int,
    signature: str = "",
    method: str = "",
    *,
    owner: Owner = None,
) -> Ranking:
    """Read a ranking.

    Args:
        path: of the file.
        dimension: D, the number of weights that it must rank.
        signature: of the prunable set that it must rank; empty: any.
        method: that must have made it; empty: any.
        owner: what it must belong to, as there or a part of it; None: anything.

    Raises:
        ArtifactError: naming the file, when it belongs to something else or is no ranking.
    """
    values = _load(path, "ranking", owner)
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


def save_probe(path: str | os.PathLike, probe: ProbeSpectrum, *, owner: Owner = None) -> None:
    """Write the raw Jacobi coefficients of a probe as npz.

    Args:
        path: of the file.
        probe: alpha and beta, shapes (m,), with dimension, active, semidefinite, precision,
            roundings, and the eigenvalues where they are known.
        owner: what it belongs to: run, seed, operator, probe (its number) and weights.
    """
    whose: dict[str, Any] = {} if owner is None else {"owner": json.dumps(dict(owner))}
    known: dict[str, Any] = {} if probe.eigenvalues is None else {"eigenvalues": probe.eigenvalues}
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
            roundings=probe.roundings,
            **known,
            **whose,
        )


def load_probe(path: str | os.PathLike, *, owner: Owner = None) -> ProbeSpectrum:
    """Read what :func:`save_probe` wrote.

    Args:
        path: of the file.
        owner: what it must belong to, as there or a part of it; None: anything.

    Raises:
        ArtifactError: naming the file, also when it belongs to another run, seed, operator, probe or network.
    """
    # They import SciPy, which most jobs do without.
    from ..spectral.lanczos import Jacobi  # noqa: PLC0415
    from ..spectral.spectrum import ROUNDINGS, ProbeSpectrum  # noqa: PLC0415

    try:
        with np.load(path, allow_pickle=False) as values:
            if int(values["format"]) != _PROBE_FORMAT:
                raise ArtifactError(f"{path} has format {int(values['format'])}, this version reads {_PROBE_FORMAT}")
            refuse_foreign(path, json.loads(str(values["owner"])) if "owner" in values else None, owner)
            return ProbeSpectrum(
                Jacobi(values["alpha"], values["beta"]),
                int(values["dimension"]),
                int(values["active"]),
                bool(values["semidefinite"]),
                float(values["precision"]),
                # Older files do not say it: they were written when it was assumed.
                float(values.get("roundings", ROUNDINGS)),
                values.get("eigenvalues"),
            )
    except ArtifactError:
        raise
    except Exception as error:
        raise ArtifactError(f"{path} is no complete spectrum file: {error}; delete it and run again") from error
