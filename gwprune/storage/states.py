"""State dictionaries, by torch.save or as safetensors: read without running what a file may hold, and loaded."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .files import atomic_path, save_tensors
from .owners import ArtifactError

__all__ = ["load_state", "read_state", "read_weights", "write_state"]

_HEAD = "gwprune"
# Where programs for training put the weights within a checkpoint.
_INNER = ("state_dict", "model_state_dict", "model", "state")


def write_state(path: str | os.PathLike, tensors: Mapping[str, Tensor], head: Mapping[str, Any] | None = None) -> None:
    """Write tensors by name, atomically, as safetensors where the suffix says so, else by torch.save.

    Of the names of a tied weight safetensors holds the first, which is how its ``load_model`` reads it.

    Args:
        path: of the file.
        tensors: of any device; they are copied to the CPU.
        head: plain values that say what they are; the file is then ``{**head, "tensors": {...}}``, and in safetensors
            its JSON is the metadata ``gwprune``.

    Raises:
        ValueError: when safetensors cannot hold them.
        OSError: naming ``path``, when it cannot be written.
    """
    # Copies: a view would take the whole of what it is a view of.
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    # Tied weights are written once; safetensors refuses tensors that share memory.
    first: dict[Any, str] = {}
    names = {name: first.setdefault(_place(tensor), name) for name, tensor in tensors.items()}
    if not _is_safetensors(path):
        once = {name: copies[own] for name, own in names.items()}
        save_tensors(path, once if head is None else {**head, "tensors": once})
        return
    once = {name: copies[name] for name, own in names.items() if name == own}
    tied = {name: own for name, own in names.items() if name != own}  # as safetensors' save_model notes it
    about = {} if head is None else {_HEAD: json.dumps(head)}
    with atomic_path(path) as temporary:
        save_file(once, temporary, metadata={"format": "pt"} | tied | about)


def _is_safetensors(path: str | os.PathLike) -> bool:
    return Path(path).suffix.lower() == ".safetensors"


def _read_safetensors(path: str | os.PathLike) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            head = json.loads((file.metadata() or {}).get(_HEAD, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is no complete file of safetensors: {error}") from error
    return {**head, "tensors": tensors} if head else tensors


def read_state(path: str | os.PathLike) -> dict[str, Any]:
    """Read what ``torch.save(model.state_dict(), path)``, safetensors or :func:`write_state` wrote.

    Nothing but tensors and plain values is unpickled.

    Args:
        path: of the file.

    Raises:
        ValueError: naming the file, when it is not one of these, holds no dictionary, or asks for more than tensors, as
            a whole module does: to unpickle one is to run whatever code it names.
        OSError: when it cannot be opened.
    """
    if _is_safetensors(path):
        return _read_safetensors(path)
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise ValueError(f"{path} is no complete file of torch.save: it cannot be unpickled") from error
        raise ValueError(
            f"{path} holds more than tensors: it asks for {asked[1]}, and to read that would be to run code of the"
            " file's choice; save model.state_dict() instead of the model"
        ) from error
    except OSError:
        raise
    except Exception as error:  # torch names no common base for what a damaged file raises
        raise ValueError(f"{path} is no complete file of torch.save: {type(error).__name__}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}, not a dictionary of tensors")
    return values


def read_weights(path: str | os.PathLike) -> dict[str, Any]:
    """The state of a network: what :func:`read_state` reads, or the state within it, of a checkpoint of training.

    Args:
        path: of the file.

    Raises:
        ValueError: as :func:`read_state`.
        OSError: when it cannot be opened.
    """
    state = read_state(path)
    return next((state[key] for key in _INNER if isinstance(state.get(key), dict)), state)


def load_state(model: nn.Module, state: Mapping[str, Any], source: str | os.PathLike) -> None:
    """Load ``state`` into ``model``. Of names for one tensor, as of tied weights, one is enough.

    Args:
        model: the network.
        state: tensors by the names of its ``state_dict``.
        source: of the state, for messages.

    Raises:
        ArtifactError: naming ``source`` and the first tensors that are missing, too many, or of another shape.
    """
    own = model.state_dict()
    there = {_place(own[name]) for name in own if name in state}
    faults = [f"{name} is missing" for name in own if name not in state and _place(own[name]) not in there]
    faults += [f"{name} is not part of the network" for name in state if name not in own]
    faults += [
        f"{name} has shape {tuple(getattr(state[name], 'shape', ()))}, the network {tuple(own[name].shape)}"
        for name in own
        if name in state and isinstance(own[name], Tensor) and getattr(state[name], "shape", None) != own[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ArtifactError(f"{source} does not fit the network {type(model).__name__}: {'; '.join(faults[:3])}{more}")
    model.load_state_dict(state, strict=False)


def _place(value: Any) -> Any:
    """What tensors that are one have in common."""
    if not isinstance(value, Tensor) or not value.numel():
        return object()
    return value.device, value.data_ptr(), value.shape, value.stride()
