"""Peak memory of a Lanczos run on a network of 23 million prunable weights, by where the basis lies.

    python -m benchmarks.memory [--steps 12] [--output DIRECTORY]

Each setting runs in a process of its own, as the peak is the process's. Anonymous memory is what a machine must have;
pages of the file that holds a basis on disk may stay in memory as long as nobody else wants it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from .reporting import arguments_of, markdown_table, publish, timed

SETTINGS = {"no basis": (False, "device"), "basis in memory": (True, "host"), "basis on disk": (True, "disk")}
_SAMPLES = 16
_MEMORY_MB = 256


def resident() -> tuple[int, int]:
    """(anonymous, all) resident bytes of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    anonymous, everything = (int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "VmRSS"))
    return anonymous, everything


def run(reorthogonalize: bool, storage: str, steps: int) -> dict[str, Any]:
    """One Lanczos run on ResNet-50 for 32x32 images, and the peaks that a watching thread saw."""
    from gwprune import models
    from gwprune.curvature.operator import curvature_operator
    from gwprune.spectral.probes import probe_spectra

    peaks, done = [0, 0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peaks[:] = [max(pair) for pair in zip(peaks, resident(), strict=True)]

    def lanczos() -> dict[str, int]:
        torch.manual_seed(0)
        model = models.build("resnet50", (3, 32, 32), 10).eval()
        data = torch.randn(_SAMPLES, 3, 32, 32), torch.randint(10, (_SAMPLES,))
        matrix = curvature_operator(model, functional.cross_entropy, data, memory_mb=_MEMORY_MB)
        basis = {"reorthogonalize": reorthogonalize, "storage": storage}
        spectrum = probe_spectra(matrix, steps=steps, probes=[0], seed=0, **basis)
        return {"dimension": spectrum.dimension, "products": matrix.products}

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    seconds, sizes = timed(lanczos)
    done.set()
    watcher.join()
    return {**sizes, "anonymous": peaks[0], "resident": peaks[1], "seconds": seconds}


def main(arguments: list[str] | None = None) -> None:
    parser = arguments_of("memory", __doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--setting", choices=SETTINGS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.setting:
        print(json.dumps(run(*SETTINGS[options.setting], options.steps)))
        return
    settings = {}
    for setting in SETTINGS:
        command = [sys.executable, "-m", "benchmarks.memory", "--setting", setting, "--steps", str(options.steps)]
        settings[setting] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rows = [
        {
            "setting": setting,
            "weights": f"{row['dimension']:,}",
            "products": row["products"],
            "peak of anonymous memory, GB": f"{row['anonymous'] / 1e9:.2f}",
            "with mapped files, GB": f"{row['resident'] / 1e9:.2f}",
            "seconds": f"{row['seconds']:.0f}",
        }
        for setting, row in settings.items()
    ]
    record = {"steps": options.steps, "settings": settings}
    publish("memory", record, markdown_table(rows), options.output, "speed.md")


if __name__ == "__main__":
    main()
