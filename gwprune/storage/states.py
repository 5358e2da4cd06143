"""State dictionaries: read without running what a file may hold, and loaded into a network."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .owners import ArtifactError

__all__ = ["load_state", "read_state"]


def read_state(path: str | os.PathLike) -> dict[str, Any]:
    """Read what ``torch.save(model.state_dict(), path)`` wrote. Nothing but tensors and plain values is unpickled.

    Args:
        path: of the file.

    Raises:
        ValueError: naming the file, when it is not one that torch wrote, holds no dictionary, or asks for more than
            tensors, as a whole module does: to unpickle one is to run whatever code it names.
        OSError: when it cannot be opened.
    """
    if Path(path).suffix == ".safetensors":
        raise ValueError(f"{path}: safetensors is not read; use a file by torch.save(model.state_dict(), path)")
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


def load_state(model: nn.Module, state: Mapping[str, Any], source: str | os.PathLike) -> None:
    """Load ``state`` into ``model``.

    Args:
        model: the network.
        state: tensors by the names of its ``state_dict``.
        source: of the state, for messages.

    Raises:
        ArtifactError: naming ``source`` and the first tensors that are missing, too many, or of another shape.
    """
    own = model.state_dict()
    faults = [f"{name} is missing" for name in own if name not in state]
    faults += [f"{name} is not part of the network" for name in state if name not in own]
    faults += [
        f"{name} has shape {tuple(getattr(state[name], 'shape', ()))}, the network {tuple(own[name].shape)}"
        for name in own
        if name in state and isinstance(own[name], Tensor) and getattr(state[name], "shape", None) != own[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ArtifactError(f"{source} does not fit the network {type(model).__name__}: {'; '.join(faults[:3])}{more}")
    model.load_state_dict(state)
