"""Named data sets -> uint8 tensors with splits, on disk and on the compute device.

data = prepare("fashion_mnist", "data", split_seed=0)
save(data, "fashion_mnist.pt"); data = load("fashion_mnist.pt")
train = DeviceSplit.from_data(data, "train", "cuda")
for inputs, labels in train.epoch(128, torch.Generator().manual_seed(0), augment="crop_flip"): ...
"""

from .augmentation import AUGMENTATIONS
from .device_data import DeviceSplit
from .errors import DataError
from .image_data import SPLITS, ImageData, load, save
from .preparation import prepare
from .registry import DATASETS, OPTIONS, DatasetSpec, names, validate

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
