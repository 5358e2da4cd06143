"""Named data sets -> uint8 tensors with splits, on disk and on the compute device.

data = prepare("fashion_mnist", "data", split_seed=0)
save(data, "fashion_mnist.pt"); data = load("fashion_mnist.pt")
train = DeviceSplit.from_data(data, "train", "cuda")
for inputs, labels in train.epoch(128, torch.Generator().manual_seed(0), augment="crop_flip"): ...

Names and options (`registry`) need no torch.
"""

from ..names import lazy
from .errors import DataError
from .registry import DATASETS, DatasetSpec, names, training_images, validate

_EXPORTS = {
    "AUGMENTATIONS": "augmentation",
    "SPLITS": "image_data",
    "DeviceSplit": "device_data",
    "ImageData": "image_data",
    "load": "image_data",
    "prepare": "preparation",
    "save": "image_data",
}

__all__ = ["DATASETS", "DataError", "DatasetSpec", "names", "training_images", "validate", *_EXPORTS]

__getattr__ = lazy(__name__, _EXPORTS)
