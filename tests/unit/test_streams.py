"""Streams of random numbers: their values stay, and no two purposes share one unless they are meant to."""

from __future__ import annotations

import pytest
import torch

from gwprune import models
from gwprune.network.prunable import PrunableSet
from gwprune.pruning import start_gem_search
from gwprune.streams import PURPOSES, numpy_stream, stream, stream_seed


@pytest.mark.parametrize(
    ("purpose", "numbers", "expected"),
    [
        ("initial weights", (), 7),
        ("other initial weights", (), 8223810459465777204),
        ("epoch", (3,), 1919448268440529387),
        ("order of an epoch", (3,), 9068494497725447331),
        ("order of a search epoch", (3,), 1919448268440529387),
        ("probe", (5,), 2153077620576773585),
    ],
)
def test_seeds_are_those_of_published_results(purpose, numbers, expected):
    assert stream_seed(7, purpose, *numbers) == expected
    assert stream(7, purpose, *numbers).initial_seed() == expected


def test_numpy_streams_are_those_of_published_results():
    first = [
        numpy_stream(7, purpose).standard_normal()
        for purpose in ("test split", "train limit", "validation split", "order of splits", "zero rows")
    ]
    assert first == [
        0.0012301533574825742,
        0.34736176866043106,
        0.17511970440671426,
        -1.667279001670178,
        -1.008110754444475,
    ]


def test_every_purpose_is_a_function_of_the_seed():
    for purpose, words in PURPOSES.items():
        numbers = (1,) * words.__code__.co_argcount
        assert stream_seed(0, purpose, *numbers) != stream_seed(1, purpose, *numbers)


def test_a_purpose_that_is_not_listed_or_counts_otherwise_is_refused():
    with pytest.raises(KeyError, match="tea leaves"):
        stream(0, "tea leaves")
    with pytest.raises(TypeError):
        stream(0, "epoch")


@pytest.mark.parametrize("name", ["lenet5", "cnn"])
def test_a_search_does_not_start_from_the_numbers_of_the_weights(name):
    torch.manual_seed(stream_seed(3, "initial weights"))
    prunable = PrunableSet(models.build(name, (1, 28, 28), 10))
    first = prunable.sizes[0]
    scores = start_gem_search(prunable, 3).popups[:first]
    correlation = torch.corrcoef(torch.stack([prunable.parameters[0].detach().flatten(), scores]))[0, 1]
    assert abs(float(correlation)) < 5 / first**0.5
