"""Atomic files, content hashes and provenance."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwprune.storage.files import atomic_path, config_hash, provenance, read_json, write_json


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


# --- atomic_path --------------------------------------------------------------------------------------------


def test_the_file_appears_only_when_the_block_is_done(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_content_until_the_block_is_done(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failing_block_keeps_the_old_content_and_leaves_no_part_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half of the new content")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_block_makes_no_file(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), atomic_path(tmp_path / "a.txt"):
        raise RuntimeError("mine")
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_removes_its_file_writes_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(path) as temporary:
        temporary.unlink()
    assert path.read_text() == "old"


def test_missing_directories_are_made(tmp_path):
    with atomic_path(tmp_path / "a/b/c.txt") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a/b/c.txt").read_text() == "x"


def test_a_bare_file_name_is_written_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic_path("a.txt") as temporary:
        temporary.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_permissions_follow_the_umask(tmp_path, umask):
    path = tmp_path / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("x")
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_umask_of_the_process_stays(tmp_path, umask):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    assert os.umask(umask) == umask


def test_a_directory_that_cannot_be_made_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "file").write_text("no directory")
    path = tmp_path / "file" / "a.txt"
    with pytest.raises(OSError, match=re.escape(f"cannot write {path}")) as caught, atomic_path(path):
        pytest.fail("the block must not run")
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)
    assert (tmp_path / "file").read_text() == "no directory"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "a.txt"

    def fill():
        with atomic_path(path), open("/dev/full", "w") as stream:
            stream.write("x" * 100)

    with pytest.raises(OSError, match=re.escape(str(path))) as caught:
        fill()
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


# --- JSON ---------------------------------------------------------------------------------------------------


def test_json_comes_back(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"x": "y", "é": True}}
    write_json(tmp_path / "v.json", value)
    assert read_json(tmp_path / "v.json") == value


def test_json_that_cannot_be_written_keeps_the_old_file(tmp_path):
    path = tmp_path / "v.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00", b"PAR1"])
def test_a_damaged_json_file_is_named(tmp_path, content):
    path = tmp_path / "v.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a complete JSON file")):
        read_json(path)


def test_a_missing_json_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "v.json"))):
        read_json(tmp_path / "v.json")


# --- hashes and provenance ----------------------------------------------------------------------------------

configs = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(max_size=5), configs, max_size=4))
def test_a_hash_does_not_depend_on_the_order_of_keys(value):
    assert config_hash(value) == config_hash(reversed_keys(value))
    assert re.fullmatch(r"[0-9a-f]{16}", config_hash(value))


def test_a_hash_depends_on_values_keys_and_the_order_of_lists():
    different = [{}, {"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1, 2]}, {"a": [2, 1]}, {"a": {"a": 1}}]
    assert len({config_hash(value) for value in different}) == len(different)


def test_a_hash_is_the_same_in_every_process():
    assert config_hash({"b": [1, 2.5], "a": None}) == "e57f5d37865437a8"


def test_provenance_says_versions_commit_configuration_and_device():
    found = provenance({"x": 1}, "cuda")
    libraries = {"torch", "numpy", "scipy", "pyarrow", "snakemake"}
    assert set(found) == {"gwprune", "git_commit", "config_hash", "python", "device"} | libraries
    assert all(isinstance(value, str) for value in found.values())
    assert found["config_hash"] == config_hash({"x": 1})
    assert found["device"] == "cuda"
    assert re.fullmatch(r"([0-9a-f]{40}\+?)?", found["git_commit"])
    for name in ("gwprune", "python", "torch", "numpy", "scipy", "pyarrow"):
        assert re.match(r"\d+\.\d+", found[name])


def test_provenance_without_a_configuration_has_no_hash_but_every_key():
    assert set(provenance()) == set(provenance({"x": 1}))
    assert provenance()["config_hash"] == provenance()["device"] == ""
