"""Products on file: replayed to the bit, never those of other work, damage noticed."""

from __future__ import annotations

import resource
import signal

import numpy as np
import pytest
import torch

from gwprune.spectral.cones import Cones
from gwprune.spectral.probes import probe_spectra
from gwprune.storage.checkpoints import RecordedOperator, digest

from .helpers_spectra import problem_of

D = 60
BELONGS_TO = {"seed": 0}


class Counting:
    """A symmetric matrix that counts its products."""

    operator = "hessian"

    def __init__(self, dtype=torch.float32):
        matrix = torch.randn(D, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.matrix = (matrix + matrix.T).to(dtype)
        self.shape, self.dtype, self.device = (D, D), dtype, self.matrix.device
        self.products = 0

    def __matmul__(self, x):
        self.products += 1
        return self.matrix @ x


class Killed(Exception):
    pass


def killed_after(products: int):
    """A callback that ends the work when so many products are written."""
    left = [products]

    def written():
        left[0] -= 1
        if not left[0]:
            raise Killed

    return written


def spectrum(operator):
    return probe_spectra(operator, steps=20, probes=[0], seed=3).probes[0]


def same(a, b) -> bool:
    return np.array_equal(a.jacobi.alpha, b.jacobi.alpha) and np.array_equal(a.jacobi.beta, b.jacobi.beta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("products", [1, 2, 7, 20])
def test_an_interrupted_run_goes_on_to_the_same_values_without_computing_again(tmp_path, dtype, products):
    expected = spectrum(Counting(dtype))
    path = tmp_path / "a/x.products"
    with pytest.raises(Killed):
        spectrum(RecordedOperator(Counting(dtype), path, BELONGS_TO, killed_after(products)))
    rest = Counting(dtype)
    found = spectrum(RecordedOperator(rest, path, BELONGS_TO))
    assert same(found, expected)
    assert rest.products == 21 - products  # 20 steps and the scan for zero rows


@pytest.mark.parametrize("blocks", [1, 3])
def test_blocks_are_recorded_vector_by_vector(tmp_path, blocks):
    def block(operator):
        return probe_spectra(operator, steps=6, probes=[0, 1, 2], seed=3).probes

    expected = block(Counting())
    path = tmp_path / "x.products"
    with pytest.raises(Killed):
        block(RecordedOperator(Counting(), path, BELONGS_TO, killed_after(1 + blocks)))
    rest = Counting()
    assert all(map(same, block(RecordedOperator(rest, path, BELONGS_TO)), expected))
    assert rest.products == 6 - blocks
    # Half of a block is no block.
    path.write_bytes(path.read_bytes()[: -4 * D])
    rest = Counting()
    assert all(map(same, block(RecordedOperator(rest, path, BELONGS_TO)), expected))
    assert rest.products == 1


def test_half_precision_is_recorded(tmp_path):
    vector = torch.linspace(-1, 1, D).bfloat16()
    expected = RecordedOperator(Counting(torch.bfloat16), tmp_path / "x", BELONGS_TO) @ vector
    again = RecordedOperator(Counting(torch.bfloat16), tmp_path / "x", BELONGS_TO)
    assert torch.equal(again @ vector, expected)
    assert again.products == 0


def test_a_search_over_many_runs_is_replayed_too(tmp_path):
    matrix = Counting(torch.float64)
    matrix.matrix = matrix.matrix @ matrix.matrix / D
    weights = torch.linspace(0.1, 1, D, dtype=torch.float64)
    known = probe_spectra(matrix, steps=D, probes=[0], seed=0)

    def threshold(operator):
        return Cones(problem_of(operator, weights, spectrum=known, steps=10)).threshold(0.05)

    expected = threshold(matrix)
    assert expected.products > 10  # more than one run
    path = tmp_path / "x"
    with pytest.raises(Killed):
        threshold(RecordedOperator(matrix, path, BELONGS_TO, killed_after(expected.products - 2)))
    before = matrix.products
    assert threshold(RecordedOperator(matrix, path, BELONGS_TO)) == expected
    assert matrix.products - before == 2


def test_products_of_other_work_are_set_aside_with_a_warning(tmp_path, caplog):
    path = tmp_path / "x"
    spectrum(RecordedOperator(Counting(), path, BELONGS_TO))
    other = Counting()
    assert same(spectrum(RecordedOperator(other, path, {"seed": 1})), spectrum(Counting()))
    assert other.products == 21
    assert [message.split(",")[0] for message in caplog.messages] == [f"checkpoint {path} is set aside"]


def test_products_of_other_vectors_are_not_used(tmp_path):
    path, matrix = tmp_path / "x", Counting()
    first = RecordedOperator(matrix, path, BELONGS_TO)
    for start in range(3):
        first @ torch.arange(start, D + start).float()
    again = RecordedOperator(matrix, path, BELONGS_TO)
    vectors = [torch.arange(D).float(), torch.ones(D), torch.arange(2, D + 2).float()]
    for vector in vectors:
        assert torch.equal(again @ vector, matrix.matrix @ vector)
    assert matrix.products == 3 + 2
    third = RecordedOperator(matrix, path, BELONGS_TO)
    for vector in vectors:
        assert torch.equal(third @ vector, matrix.matrix @ vector)
    assert matrix.products == 5


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_damage_is_noticed_and_computed_anew(tmp_path, damage):
    path = tmp_path / "x"
    spectrum(RecordedOperator(Counting(), path, BELONGS_TO))
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-100]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes({"empty": b"", "foreign": b"no products of ours" * 100}.get(damage, content))
    matrix = Counting()
    assert same(spectrum(RecordedOperator(matrix, path, BELONGS_TO)), spectrum(Counting()))
    assert matrix.products == {"cut": 1, "flipped": 11, "empty": 21, "foreign": 21}[damage]


def test_what_is_left_of_longer_work_is_cut_off(tmp_path):
    path, matrix = tmp_path / "x", Counting()
    spectrum(RecordedOperator(matrix, path, BELONGS_TO))
    again = RecordedOperator(matrix, path, BELONGS_TO)
    again @ torch.ones(D)
    assert len(path.read_bytes()) < 2 * (4 * D + 8) + 50


def test_blocks_and_attributes_are_the_operators(tmp_path):
    matrix = Counting()
    recorded = RecordedOperator(matrix, tmp_path / "x", BELONGS_TO)
    block = torch.randn(D, 3)
    assert torch.equal(recorded @ block, matrix.matrix @ block)
    assert recorded.operator == "hessian"
    assert recorded.shape == (D, D)


def test_a_complete_job_leaves_no_file(tmp_path):
    recorded = RecordedOperator(Counting(), tmp_path / "x", BELONGS_TO)
    recorded @ torch.ones(D)
    recorded.remove()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named(tmp_path):
    recorded = RecordedOperator(Counting(), tmp_path / "x", BELONGS_TO)
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*/x: "):
            recorded @ torch.ones(D)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_digest_tells_tensors_apart():
    assert digest(torch.ones(2), torch.zeros(2)) == digest(torch.ones(2), torch.zeros(2))
    assert digest(torch.ones(2)) != digest(torch.zeros(2))
    assert digest(torch.ones(4).reshape(2, 2).T) == digest(torch.ones(2, 2))
