# The plan of the configuration, and what it says to every rule. No rule stands here.
import re

from gwprune.config.plan import RUN_FIGURES, WITH_PRODUCTS, Plan, needs_gpu, section_of
from gwprune.config.settings import provenance_of, settings_of
from gwprune.tables.schemas import RUN_TABLES, TABLES

# The message is complete: an exception of Snakemake's would add lines of this file to it.
try:
    CONFIG = gwconfig.load_for_workflow(config, [] if AS_MODULE else workflow.configfiles)
except gwconfig.ConfigError as error:
    sys.exit(str(error))

PLAN = Plan(CONFIG, workflow.modifier.path_modifier.replace_prefix)
FILE = PLAN.file
PATH = PLAN.path
# Jobs run in the environment that Snakemake runs in, with `--sdm conda` too, which may stand in a user's profile: what
# Snakemake would make of the file has no gwprune.
METHODS = {method.name for method in workflow.deployment_settings.deployment_method}
ENVIRONMENT = None if "CONDA" in METHODS else "../../envs/gwprune.yaml"
GPU = 0 if CONFIG.device == "cpu" else 1


wildcard_constraints:
    # What no job has matches nothing.
    **{name: "|".join(map(re.escape, values)) or "(?!)" for name, values in PLAN.wildcards().items()},


def threads_of(rule):
    return getattr(CONFIG.resources, section_of(rule)).threads


def resources_of(rule):
    """Memory, run time and GPU of a rule: more memory and time with every retry, so that a job comes through."""
    section = getattr(CONFIG.resources, section_of(rule))
    return {
        "mem_mb": lambda wildcards, attempt: section.mem_mb * attempt,
        "runtime": lambda wildcards, attempt: PLAN.trainings(rule, wildcards) * section.runtime * attempt,
        **({"gpu": GPU} if needs_gpu(rule) else {}),
    }


def settings(rule):
    """What the job of a rule is told beside its files."""
    return lambda wildcards: settings_of(PLAN, rule, wildcards)


def provenance(wildcards):
    """The configuration that the tables of a job name."""
    return provenance_of(PLAN, wildcards)
