"""The samples behind an operator: whatever a caller holds them in, batch by batch on one device.

A batch is a tensor, or nested tuples and dicts of tensors and of lists of strings, with the samples along axis 0 of
each. What else stands in it (a number, None, an object of the caller's) belongs to the batch as a whole.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, Subset

from ..streams import stream

__all__ = [
    "LABELS", "Batch", "Samples", "as_tensors", "batches_of", "call", "count_samples", "divisible", "leaves",
    "map_tensors", "mini_batch_size", "read_samples", "take",
]  # fmt: skip

Batch = Any
Part = slice | Tensor  # which samples

LABELS = "labels"  # the target's key in a batch that is a dict

_READ_AT_ONCE = 1024
# Samples of a mini-batch where the data have none of their own.
_MINI_BATCH = 128
_FORMS = "(input, target), a dict of tensors, a Dataset, or a DataLoader or another iterable of such batches"


def _map(function: Callable[..., Any], value: Batch, *others: Batch) -> Batch:
    """The same nesting with ``function`` of what holds samples."""
    if isinstance(value, dict):
        return {key: _map(function, part, *(other[key] for other in others)) for key, part in value.items()}
    if isinstance(value, tuple):
        parts = [_map(function, *items) for items in zip(value, *others, strict=True)]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return function(value, *others) if _holds_samples(value) else value


def _holds_samples(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, Tensor | np.ndarray) and value.ndim > 0)


def leaves(value: Batch, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, what holds samples) for everything in a batch that does; the name is that of its key or place."""
    if isinstance(value, dict | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from leaves(part, f"{name}[{key!r}]" if name else str(key))
    elif _holds_samples(value):
        yield name, value


def map_tensors(function: Callable[[Tensor], Tensor], value: Batch) -> Batch:
    """The same nesting with ``function`` of each tensor."""
    return _map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, value)


def count_samples(value: Batch) -> int:
    """Number of samples of a batch: of its target, where it is a pair or a dict with labels, else of its first tensor.

    Raises:
        ValueError: when nothing in it tells.
    """
    told = value[1] if isinstance(value, tuple) and len(value) == 2 else value
    told = told.get(LABELS, told) if isinstance(told, dict) else told
    for _, leaf in (*leaves(told), *leaves(value)):
        return len(leaf)
    raise ValueError(f"a batch of {_called(value)} does not tell how many samples it has; give weight=")


def divisible(value: Batch) -> bool:
    """Whether all that holds samples holds as many; a graph's nodes and edges do not."""
    return len({len(leaf) for _, leaf in leaves(value)}) == 1


def take(value: Batch, part: Part) -> Batch:
    """The samples ``part``, a slice or a vector of their numbers."""

    def chosen(leaf: Any) -> Any:
        if isinstance(part, slice):
            return leaf[part]
        if isinstance(leaf, list):
            return [leaf[number] for number in part.tolist()]
        return leaf[part.to(leaf.device)] if isinstance(leaf, Tensor) else leaf[part.numpy()]

    return _map(chosen, value)


def call(model: nn.Module, inputs: Any) -> Any:
    """The network's output; a tuple of inputs is spread over its arguments, a dict over their names.

    Raises:
        TypeError: also when the network takes others.
    """
    try:
        if isinstance(inputs, dict):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    except TypeError as error:
        if f"{type(model).__name__}.forward()" not in str(error):
            raise
        given = f"the names {', '.join(inputs)}" if isinstance(inputs, dict) else ""
        given = given or (f"{len(inputs)} inputs" if isinstance(inputs, tuple) else "one input")
        raise TypeError(
            f"the data give the network {given}: {error}; a tuple of inputs is spread over the arguments, a dict over"
            " their names, and forward= calls it in any other way"
        ) from error


def mini_batch_size(data: Any) -> int:
    """Samples of a mini-batch of ``data``: those of a DataLoader, else 128."""
    return (data.batch_size if isinstance(data, DataLoader) else None) or _MINI_BATCH


def batches_of(data: Batch, size: int) -> Iterator[Batch]:
    """Batches in stored order, ``size`` samples at a time; the last batch may be smaller."""
    for start in range(0, count_samples(data), size):
        yield take(data, slice(start, start + size))


class NotFinite(NamedTuple):
    """NaN or infinite numbers in a tensor of the data.

    Attributes:
        place: of the first sample with such a number, for :meth:`Samples.batch`.
        text: what there is and what to do about it.
    """

    place: tuple[int, slice]
    text: str


class Samples:
    """All samples of some data, in a fixed order, wherever they lie; batches of them come to one device.

    Args:
        parts: batches that are not joined, as their shapes differ.
        device: of the batches that are asked for.

    Attributes:
        parts: as given.
        device: as given.
        counts: number of samples of each part.
    """

    def __init__(self, parts: list[Batch], device: torch.device):
        self.parts, self.device = parts, device
        self.counts = [count_samples(part) if any(leaves(part)) else 1 for part in parts]

    def __len__(self) -> int:
        return sum(self.counts)

    def places(self, size: int) -> list[tuple[int, slice]]:
        """(number of the part, samples of it) for each batch of at most ``size`` samples, in stored order.

        A part whose tensors have unequal lengths along axis 0, such as nodes and edges of a graph, stays whole.
        """
        places = []
        for number, (part, count) in enumerate(zip(self.parts, self.counts, strict=True)):
            step = size if divisible(part) else count
            places += [(number, slice(start, min(start + step, count))) for start in range(0, count, step)]
        return places

    def stored(self, place: tuple[int, Part]) -> Batch:
        """Where it lies; see :meth:`places`."""
        part = self.parts[place[0]]
        return take(part, place[1]) if divisible(part) else part

    def batch(self, place: tuple[int, Part]) -> Batch:
        """A copy on the device, which the network may change in place; see :meth:`places`."""
        return _moved(self.stored(place), self.device, copy=True)

    def batches(self, size: int) -> Iterator[Batch]:
        """Of at most ``size`` samples each, in stored order, on the device."""
        return (self.batch(place) for place in self.places(size))

    def not_finite(self) -> Iterator[NotFinite]:
        """The tensors that hold numbers which are not finite, each with the first of its samples that does."""
        for number, (part, start) in enumerate(zip(self.parts, accumulate(self.counts, initial=0), strict=False)):
            for name, tensor in leaves(part):
                if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                    continue
                for kind, found in (("NaN", torch.isnan), ("infinite numbers", torch.isinf)):
                    bad = found(tensor).flatten(1).any(dim=1) if tensor.ndim > 1 else found(tensor)
                    if not bool(bad.any()):
                        continue
                    first = int(bad.nonzero()[0])
                    where = {"0": "input", "1": "target"}.get(name, name) if isinstance(part, tuple) else name
                    yield NotFinite(
                        (number, slice(first, first + 1)),
                        f"the data hold {kind}: {int(bad.sum())} of {len(self)} samples in their {where}, the first is"
                        f" sample {start + first}; leave them out or fill them in",
                    )

    def some(self, count: int, *, spread: bool = False) -> Batch:
        """At most ``count`` samples of the first part, the first ones or spread over it; all if it does not divide."""
        every = max(1, self.counts[0] // count) if spread else 1
        return self.batch((0, slice(0, every * count, every)))


def _moved(value: Batch, device: torch.device, copy: bool = False) -> Batch:
    def to(leaf: Any) -> Any:
        if isinstance(leaf, dict):
            return {key: to(part) for key, part in leaf.items()}
        if isinstance(leaf, tuple):
            parts = [to(part) for part in leaf]
            return type(leaf)(*parts) if hasattr(leaf, "_fields") else tuple(parts)
        if isinstance(leaf, Tensor):
            return leaf.to(device, copy=copy)
        return leaf.to(device) if hasattr(leaf, "to") else leaf

    return to(value)


def _called(value: Any) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__


def _nested(value: Any) -> Batch:
    """Tuples for lists, dicts for mappings; lists are of strings."""
    if isinstance(value, Mapping):
        return {key: _nested(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        if value and all(isinstance(part, str) for part in value):
            return list(value)
        parts = [_nested(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def _as_tensors(value: Batch, dtype: torch.dtype | None) -> Batch:
    def converted(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        with warnings.catch_warnings():  # an array that cannot be written to is read alone
            warnings.filterwarnings("ignore", message=".*not writable", category=UserWarning)
            tensor = torch.from_numpy(np.ascontiguousarray(leaf))
        # NumPy's floats are double by habit, not by intent.
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

    return _map(converted, value)


def _checked(value: Batch, any_form: bool) -> Batch:
    """The batch, if a network can be called with it.

    Raises:
        TypeError: for one that is neither a pair nor a dict, when there is no ``forward``.
        ValueError: for unequal numbers of inputs and targets.
    """
    if any_form or isinstance(value, dict):
        return value
    pair = isinstance(value, tuple) and len(value) == 2
    lengths = [{len(leaf) for _, leaf in leaves(part)} for part in value] if pair else [set()]
    if not all(lengths):
        inside = " that do not both hold tensors" if pair else ""
        raise TypeError(
            f"data must be {_FORMS}, got {_called(value)}{inside}; for any other, forward= says what the network is"
            " given and what its output is held against, as in forward=lambda model, batch: (model(batch[0]), batch[1])"
        )
    if all(len(part) == 1 for part in lengths) and lengths[0] != lengths[1]:
        raise ValueError(f"data has {min(lengths[0])} inputs but {min(lengths[1])} targets")
    return value


def _drawn(count: int, samples: int, seed: int) -> Tensor:
    """Numbers of ``samples`` of ``count`` samples, in random order."""
    return torch.randperm(count, generator=stream(seed, "subset of samples"))[:samples]


def _visits_all(loader: DataLoader) -> bool:
    """Whether a loader's samples are those of its Dataset, each once."""
    sampler = loader.sampler
    if type(loader).__iter__ is not DataLoader.__iter__ or loader.batch_size is None:
        return False
    random = type(sampler) is RandomSampler and not sampler.replacement and sampler._num_samples is None
    return random or type(sampler) is SequentialSampler


def _loaded(data: Any, samples: int | None, seed: int) -> Iterator[Batch]:
    """Batches of a loader or Dataset, no more than hold ``samples``; the last of these is cut."""
    if isinstance(data, Dataset) or (not isinstance(data, DataLoader) and hasattr(data, "__getitem__")):
        data = DataLoader(data, batch_size=min(_READ_AT_ONCE, samples or _READ_AT_ONCE))
    if samples is not None and isinstance(data, DataLoader) and _visits_all(data) and samples < len(data.dataset):
        chosen = Subset(data.dataset, _drawn(len(data.dataset), samples, seed).tolist())
        data = DataLoader(chosen, batch_size=data.batch_size, collate_fn=data.collate_fn, num_workers=data.num_workers)
    read = 0
    for batch in data:
        batch = _nested(batch)
        count = count_samples(batch) if any(leaves(batch)) else 1
        if samples is not None and read + count > samples and divisible(batch):
            batch = take(batch, slice(0, samples - read))
        elif samples is None and read == 0 and isinstance(data, DataLoader):
            _refuse_too_many(batch, data)
        yield batch
        read += count
        if samples is not None and read >= samples:
            return


def _refuse_too_many(batch: Batch, loader: DataLoader) -> None:
    """Say so before the host's memory is full."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        batches = 0 if isinstance(loader.dataset, IterableDataset) else len(loader)
    except (AttributeError, OSError, TypeError, ValueError):  # another system, a loader without a length
        return
    size = batches * sum(leaf.nbytes for _, leaf in leaves(batch) if not isinstance(leaf, list))
    if size > memory:
        raise ValueError(
            f"data takes about {size / 2**30:.0f} GiB and the host has {memory / 2**30:.0f}; give samples=, the number"
            " of samples to draw"
        )


def _form(value: Batch) -> Any:
    """What two batches have in common that can be joined."""
    if isinstance(value, dict):
        return [(key, _form(part)) for key, part in value.items()]
    if isinstance(value, tuple):
        return [_form(part) for part in value]
    if isinstance(value, Tensor) and value.ndim:
        return value.shape[1:], value.dtype, value.device
    return list if isinstance(value, list) else repr(value)


def _joined(batches: Iterable[Batch]) -> list[Batch]:
    """Neighbours of one form as one batch."""
    groups: list[list[Batch]] = []
    last = None
    for batch in batches:
        form = _form(batch) if divisible(batch) else None
        if form is None or form != last:
            groups.append([])
        last = form
        groups[-1].append(batch)
    return [
        _map(lambda *parts: sum(parts, []) if isinstance(parts[0], list) else torch.cat(parts), *group)
        if len(group) > 1
        else group[0]
        for group in groups
    ]


def read_samples(
    data: Any,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    samples: int | None = None,
    seed: int = 0,
    any_form: bool = False,
) -> Samples:
    """The samples of ``data``, read once, in the order in which they come; a shuffling loader gives no other later.

    They stay where they are (on the host, as a rule), and batches of them are moved when they are asked for.

    Args:
        data: a pair (input, target) or a dict of tensors or arrays with the samples along axis 0; a ``Dataset`` of
            such samples; a ``DataLoader`` or another iterable of such batches. Inputs may be nested tuples and dicts.
        device: where batches shall come to.
        dtype: of NumPy's floats; they keep their own without.
        samples: number of samples to draw without replacement, in random order; all if there are fewer. From a loader
            that has an order of its own (a sampler, no Dataset behind it) come its first ones. No more are read.
        seed: of the draw.
        any_form: whether batches may be of any other form.

    Raises:
        TypeError: for data of another kind.
        ValueError: for no samples, for unequal numbers of inputs and targets, for more than the host's memory holds,
            or ``samples`` of data that cannot be divided.
    """
    if samples is not None and (not isinstance(samples, int) or isinstance(samples, bool) or samples < 1):
        raise ValueError(f"samples must be a whole number of at least 1, got {samples!r}")
    whole = isinstance(data, tuple | Mapping | Tensor | np.ndarray)
    pair = isinstance(data, list) and len(data) == 2 and not all(isinstance(part, tuple | Mapping) for part in data)
    if isinstance(data, list) and not pair:
        raise TypeError(
            f"data must be {_FORMS}, got a list of {len(data)}; of batches give iter(data), of samples a DataLoader of"
            " them"
        )
    if whole or pair:
        value = _checked(_nested(data), any_form)
        if samples is not None and samples < count_samples(value):
            if not divisible(value):
                raise ValueError("samples= cannot draw from data whose parts have unequal lengths along axis 0")
            value = take(value, _drawn(count_samples(value), samples, seed))
        parts = [_as_tensors(value, dtype)]
    elif isinstance(data, str | set) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise TypeError(f"data must be {_FORMS}, got {type(data).__name__}")
    else:
        parts = _joined(_as_tensors(_checked(batch, any_form), dtype) for batch in _loaded(data, samples, seed))
    result = Samples(parts, device)
    if len(result) == 0:
        raise ValueError("data holds no samples")
    return result


def as_tensors(data: Any, device: torch.device) -> tuple[Any, Any]:
    """All samples as one (input, target) on ``device``; arguments and errors as :func:`read_samples`.

    Raises:
        TypeError: also for dicts.
        ValueError: also when the shapes of the samples differ.
    """
    read = read_samples(data, device)
    if len(read.parts) > 1:
        raise ValueError("the batches of data have different shapes; give all samples one shape")
    if isinstance(read.parts[0], dict):
        raise TypeError("data must be (input, target), a Dataset or a DataLoader of pairs, got dict")
    return _moved(read.parts[0], device)
