# Two commands on a fresh machine: `make demo` and `make test`. Both make the environment first.
VENV ?= .venv
CORES ?= all
PYTHON ?= python3
CONFIG ?= config/config.yaml
# What else Snakemake is told. `FLAGS=--printshellcmds` shows Snakemake's own output.
FLAGS ?=

python := $(VENV)/bin/python
snakemake := $(python) -m snakemake --cores $(CORES) --configfile $(CONFIG) $(FLAGS)
stamp := $(VENV)/.gwprune-complete

.PHONY: help env demo run report test test-gpu test-cluster test-storm lint docs findings studies bench bench-intervals

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

# The stamp is written last, so an interrupted installation is taken up again.
$(stamp): envs/constraints.txt envs/make_venv.sh pyproject.toml
	@sh envs/make_venv.sh "$(PYTHON)" "$(VENV)"
	@touch $@

env: $(stamp)  ## the environment alone

demo: $(stamp)  ## run the workflow on the embedded data set and print the threshold table
	@$(MAKE) --no-print-directory report CONFIG=config/config.yaml
	@$(python) -m gwprune thresholds --config config/config.yaml

run: $(stamp)  ## run the workflow on CONFIG=config/....yaml
	$(snakemake)

report: run  ## run, then build the self-contained report.html
	@$(python) -m gwprune report --config $(CONFIG)

test: $(stamp)  ## run the tests
	$(python) -m pytest -n 2 --dist worksteal --durations 10

test-gpu: $(stamp)  ## on a machine with a CUDA device: the same numbers as on the CPU, within stated tolerances
	$(python) -m pytest -m gpu tests/unit

test-cluster: $(stamp)  ## short tests on a real SLURM, which they start; needs its packages (docs/cluster.md)
	$(python) -m pytest -m "not storm" --durations 0 --durations-min 1 tests/cluster

test-storm: $(stamp)  ## the long ones: the demo, time limits, and a run in which everything is killed, again and again
	$(python) -m pytest -m storm tests/cluster

lint: $(stamp)  ## format, lint and type checks
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/snakefmt --check Snakefile workflow
	$(VENV)/bin/snakemake --lint

# The site's packages are needed by no other target.
$(VENV)/.gwprune-docs: $(stamp)
	@$(python) -m pip install --quiet --disable-pip-version-check -c envs/constraints.txt -e '.[docs]'
	@touch $@

docs: $(VENV)/.gwprune-docs  ## generate the references of configuration and tables, then the site in build/site
	$(python) -m gwprune config-docs
	NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict

findings: $(stamp)  ## tables and figure of docs/findings.md and the figure of README.md, from results/reference
	$(python) -m benchmarks.findings
	$(python) -m benchmarks.overview

studies: $(stamp)  ## coverage of the intervals and the phase transition: docs/certificate.md
	$(python) -m benchmarks.coverage
	$(python) -m benchmarks.phase_transition
	$(python) -m benchmarks.theory_figure

# The other libraries are needed by the benchmarks alone.
$(VENV)/.gwprune-bench: $(stamp)
	@$(python) -m pip install --quiet --disable-pip-version-check -c envs/constraints.txt -e '.[bench]'
	@touch $@

bench: $(VENV)/.gwprune-bench  ## products against other libraries, and memory: docs/speed.md; idle machine
	$(python) -m benchmarks.products
	$(python) -m benchmarks.memory
	$(python) -m benchmarks.training

bench-intervals: $(VENV)/.gwprune-bench  ## train three networks, then docs/intervals.md; about an hour on two cores
	@$(MAKE) --no-print-directory run CONFIG=config/fashion_mnist.yaml
	@$(MAKE) --no-print-directory run CONFIG=benchmarks/networks.yaml
	$(python) -m benchmarks.intervals
	$(python) -m benchmarks.end_to_end --rounds 3
