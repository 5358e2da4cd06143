"""Settings shared by the unit tests: one thread, and the same hypothesis examples in every run."""

from __future__ import annotations

import hypothesis
import torch
from threadpoolctl import threadpool_limits

torch.set_num_threads(1)
threadpool_limits(limits=1)
hypothesis.settings.register_profile("gwprune", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("gwprune")
