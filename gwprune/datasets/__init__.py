"""Named data sets -> uint8 tensors with splits, on disk and on the compute device.

data = prepare("fashion_mnist", "data", split_seed=0)
save(data, "fashion_mnist.pt"); data = load("fashion_mnist.pt")
train = DeviceSplit.from_data(data, "train", "cuda")
for inputs, labels in train.epoch(128, torch.Generator().manual_seed(0), augment="crop_flip"): ...
"""

from gwprune.datasets.augmentation import AUGMENTATIONS
from gwprune.datasets.device_data import DeviceSplit
from gwprune.datasets.errors import DataError
from gwprune.datasets.image_data import SPLITS, ImageData, load, save
from gwprune.datasets.preparation import prepare
from gwprune.datasets.registry import DATASETS, OPTIONS, DatasetSpec, names, validate

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "OPTIONS",
    "SPLITS",
    "DataError",
    "DatasetSpec",
    "DeviceSplit",
    "ImageData",
    "load",
    "names",
    "prepare",
    "save",
    "validate",
]
