# GPU slots of this machine, and the remains of a run that was killed. Before all rules, as they take resources up.
import os
from pathlib import Path

from gwprune import launch
from gwprune.jobs import SLOTS_VARIABLE

SNAKEMAKE_DIRECTORY = Path(".snakemake").resolve()

if not GPU:
    # A profile names the model of GPU jobs; here there are none, and the model alone would ask for a GPU.
    asked = workflow.resource_settings.overwrite_resources
    workflow.resource_settings.overwrite_resources = launch.without(asked, "gpu_model")

if workflow.is_main_process:
    launch.take_over(SNAKEMAKE_DIRECTORY)
    # Jobs on a cluster get their GPUs from its scheduler.
    slots = launch.gpu_slots() if GPU and workflow.nodes is None else []
    os.environ.pop(SLOTS_VARIABLE, None)
    if slots:
        os.environ[SLOTS_VARIABLE] = ",".join(slots)
        if "gpu" not in workflow.global_resources:
            workflow.register_resource("gpu", len(slots))


onstart:
    if workflow.is_main_process:
        launch.claim(SNAKEMAKE_DIRECTORY, workflow.executor_plugin.name)


onsuccess:
    if workflow.is_main_process:
        launch.release(SNAKEMAKE_DIRECTORY)


onerror:
    if workflow.is_main_process:
        launch.release(SNAKEMAKE_DIRECTORY)
