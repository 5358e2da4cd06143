"""Trees of image files: Tiny ImageNet and a user's own."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gwprune import datasets
from gwprune.datasets import DataError
from gwprune.datasets.decode import resize

from .helpers_datasets import md5, rows, write_image

pytestmark = pytest.mark.usefixtures("no_network")


def write_tiny_imagenet(root: Path, boxes: bool = True) -> Path:
    tree = root / "tiny-imagenet-200"
    wnids = ["n02", "n01", "n03"]
    lines = []
    for wnid in wnids:
        names = [f"{wnid}_{n}.JPEG" for n in range(6)]
        for n, name in enumerate(names):
            write_image(tree / "train" / wnid / "images" / name, n, mode="L" if n == 0 else "RGB")
        if boxes:
            text = "".join(f"{name}\t0\t0\t63\t63\n" for name in names)
            (tree / "train" / wnid / f"{wnid}_boxes.txt").write_text(text)
    for n in range(4):
        write_image(tree / "val" / "images" / f"val_{n}.JPEG", 100 + n, mode="L" if n == 1 else "RGB")
        lines.append(f"val_{n}.JPEG\t{wnids[n % 3]}\t0\t32\t44\t62\n")
    (tree / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (tree / "val" / "val_annotations.txt").write_text("".join(lines))
    return tree


def test_tiny_imagenet(tmp_path):
    tree = write_tiny_imagenet(tmp_path)
    data = datasets.prepare("tiny_imagenet", tmp_path, validation_fraction=1 / 6)
    assert {split: tuple(images.shape) for split, images in data.images.items()} == {
        "train": (15, 3, 64, 64),
        "val": (3, 3, 64, 64),
        "test": (4, 3, 64, 64),
    }
    assert data.class_names == ["n01", "n02", "n03"]
    assert data.labels["test"].tolist() == [1, 0, 2, 1]
    assert data.labels["val"].sort().values.tolist() == [0, 1, 2]
    decoded = np.array(Image.open(tree / "val" / "images" / "val_0.JPEG")).transpose(2, 0, 1)
    assert np.array_equal(data.images["test"][0].numpy(), decoded)
    grey = data.images["test"][1]
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])
    small = datasets.prepare("tiny_imagenet", tmp_path, image_size=16, train_limit=6)
    assert small.images["train"].shape == (5, 3, 16, 16)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("train/n03/images/n03_2.JPEG", None, "missing"),
        ("val/images/val_2.JPEG", None, "missing"),
        ("train/n01/images/n01_3.JPEG", b"no image", "cannot be decoded"),
        ("val/images/val_0.JPEG", "cut", "cannot be decoded"),
        ("val/images/val_0.JPEG", "small", "32x32 pixels, expected 64x64"),
        ("val/val_annotations.txt", None, "part of tiny-imagenet-200"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn99\t0\n", "line 1"),
        ("val/val_annotations.txt", b"\n", "lists no images"),
        ("wnids.txt", b"\xff\xfe\xfa", "cannot be read"),
    ],
)
def test_tiny_imagenet_damaged(file, content, words, tmp_path):
    path = write_tiny_imagenet(tmp_path) / file
    if content is None:
        path.unlink()
    elif content == "small":
        write_image(path, 0, (32, 32))
    else:
        path.write_bytes(path.read_bytes()[:-900] if content == "cut" else content)
    with pytest.raises(DataError, match=words) as caught:
        datasets.prepare("tiny_imagenet", tmp_path)
    assert str(path) in str(caught.value)


def test_tiny_imagenet_class_without_images(tmp_path):
    tree = write_tiny_imagenet(tmp_path, boxes=False)
    for path in (tree / "train" / "n02" / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="n02/images: no .JPEG images"):
        datasets.prepare("tiny_imagenet", tmp_path)


def test_tiny_imagenet_from_archive_or_missing(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="tiny-imagenet-200.zip .*no network|no network.*tiny-imagenet-200.zip"):
        datasets.prepare("tiny_imagenet", tmp_path)
    assert not list(tmp_path.glob("*tiny*"))
    assert not list(tmp_path.glob(".tiny*"))

    tree = write_tiny_imagenet(tmp_path / "source")
    archive = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in tree.rglob("*"):
            file.write(path, path.relative_to(tree.parent))
    monkeypatch.setattr("gwprune.datasets.tiny_imagenet.MD5", md5(archive))
    assert len(datasets.prepare("tiny_imagenet", tmp_path).labels["test"]) == 4
    assert not list(tmp_path.glob(".tiny*"))


def write_tree(root: Path, parts: tuple[str, ...] = ("train",)) -> Path:
    for part in parts:
        for number, name in enumerate(("ant", "bee")):
            for n in range(5):
                write_image(root / part / name / "deep" / f"{n}.PNG", 10 * number + n, (9 + n, 12))
            (root / part / name / "notes.txt").write_text("not an image")
    return root


def test_image_folder(tmp_path):
    options = {"image_size": 8, "validation_fraction": 0.25}
    drawn = datasets.prepare("image_folder", "unused", path=write_tree(tmp_path / "a"), **options)
    assert {split: len(labels) for split, labels in drawn.labels.items()} == {"train": 6, "val": 2, "test": 2}
    assert drawn.labels["test"].sort().values.tolist() == [0, 1]
    assert drawn.class_names == ["ant", "bee"]

    own = datasets.prepare("image_folder", "unused", path=write_tree(tmp_path / "b", ("train", "val")), **options)
    assert own.labels["test"].tolist() == [0] * 5 + [1] * 5
    source = np.array(Image.open(tmp_path / "b" / "val" / "bee" / "deep" / "3.PNG")).transpose(2, 0, 1)
    assert torch.equal(own.images["test"][8], resize(torch.from_numpy(source.copy())[None], 8)[0])
    assert sorted(rows(own.images["train"]) + rows(own.images["val"])) == sorted(rows(own.images["test"]))


def test_image_folder_errors(tmp_path):
    def message(root: Path) -> str:
        with pytest.raises(DataError) as caught:
            datasets.prepare("image_folder", "unused", path=root, image_size=8)
        return str(caught.value)

    assert f"{tmp_path / 'none' / 'train'}: no such folder" in message(tmp_path / "none")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    assert "no class folders" in message(tmp_path / "empty")
    tree = write_tree(tmp_path / "tree", ("train", "test"))
    (tree / "train" / "cat").mkdir()
    assert f"{tree / 'train' / 'cat'}: no image files" in message(tree)
    (tree / "train" / "cat").rmdir()
    write_image(tree / "test" / "cat" / "0.png", 0)
    assert f"{tree / 'test' / 'cat'}: no class of this name" in message(tree)
    (tree / "test" / "cat" / "0.png").unlink()
    (tree / "test" / "cat").rmdir()
    (tree / "train" / "ant" / "deep" / "1.PNG").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert f"{tree / 'train' / 'ant' / 'deep' / '1.PNG'}: image cannot be decoded" in message(tree)
