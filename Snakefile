import sys

from gwprune import config as gwconfig
from snakemake.utils import min_version

min_version("9.0")

# Another workflow uses this one as a module and gives its configuration. Not part of Snakemake's public interface.
AS_MODULE = workflow.modifier.skip_configfile

# A configuration given with --configfile replaces the embedded default; single keys given with --config are laid over it.
if not (workflow.overwrite_configfiles or AS_MODULE):
    # Our reader names the file and the line of what is wrong.
    try:
        gwconfig.read_file(f"{workflow.basedir}/config/config.yaml")
    except gwconfig.ConfigError as error:
        sys.exit(str(error))

    configfile: f"{workflow.basedir}/config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/launch.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/spectrum.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/sweep.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/sparse.smk"
include: "workflow/rules/aggregate.smk"
include: "workflow/rules/figures.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        PLAN.results(),
