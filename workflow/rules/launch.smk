# GPU slots of this machine, and the remains of a run that was killed. Before all rules, as they take resources up.
import os
from pathlib import Path

from gwprune.jobs.job import SLOTS_VARIABLE
from gwprune.jobs.launch import Launch, gpu_slots, places, without

if not GPU:
    # A profile names the model of GPU jobs, or their `gres`; here there are none, and either alone would ask for a GPU.
    asked = workflow.resource_settings.overwrite_resources
    workflow.resource_settings.overwrite_resources = without(asked, "gpu_model", "gres")

if workflow.is_main_process:
    LAUNCH = Launch(Path(".snakemake").resolve())
    # Not public, but the one place that a run passes before Snakemake looks at its locks, and that a plan, a lint or a
    # report does not.
    workflow.execute = LAUNCH.around(
        workflow.execute,
        finished=lambda: logger.info(
            places(Path(PLAN.placed(CONFIG.results)), [] if AS_MODULE else workflow.configfiles),
            extra={"results": True},
        ),
    )
    # Jobs on a cluster get their GPUs from its scheduler.
    SLOTS = gpu_slots() if GPU else []
    os.environ.pop(SLOTS_VARIABLE, None)
    if SLOTS and workflow.nodes is None and "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", len(SLOTS))


onstart:
    if workflow.is_main_process:
        # Neither is part of Snakemake's public interface; without them a lock and jobs that are left stay for the user.
        locks = getattr(workflow.persistence, "_lockfile", {}).values()
        executor = getattr(workflow.scheduler, "_executor", None)
        LAUNCH.started(locks, "" if workflow.local_exec else getattr(executor, "run_uuid", ""))
        if SLOTS and workflow.local_exec:
            os.environ[SLOTS_VARIABLE] = ",".join(SLOTS)
