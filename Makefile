# Needs Python with venv, make and git; everything else is installed into .venv from the package
# index, in the versions that CI uses (constraints/cpu.txt).

PYTHON ?= python3
MODEL ?= smollm2-135m
ARGS ?=
JOBS ?= 2

BIN := .venv/bin
OLDEST := .venv-oldest/bin
KERNELS := $(wildcard src/pieria/kernels/cpu/*.cpp src/pieria/kernels/cpu/*.h)
CPP = $(shell git ls-files '*.cpp' '*.cc' '*.h' '*.hpp' '*.cu' '*.mu' '*.muh')

.PHONY: serve chat support test test-slow test-browser test-files test-peers test-oldest fuzz fuzz-api lint sbom audit bench bench-peers kills aborts soak fairness idle clean

serve: .venv/serve.stamp
	$(BIN)/pieria pull $(MODEL)
	$(BIN)/pieria serve $(MODEL) $(ARGS)

chat: .venv/serve.stamp
	$(BIN)/pieria pull $(MODEL)
	$(BIN)/pieria chat $(MODEL) $(ARGS)

test: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile \
		-m "not gpu and not files and not peers and not browser and not slow" $(ARGS)

# What takes longer: many more examples of what `make test` tries a few of.
test-slow: .venv/dev.stamp
	$(BIN)/python -m pytest -m slow $(ARGS)

# Pages in Chromium, which must be there: apt-get install chromium-headless-shell, or chromium.
test-browser: .venv/browser.stamp
	$(BIN)/python -m pytest -m browser $(ARGS)

# Against all vocabularies and chat templates of llama.cpp, which are fetched once, some 80 MB.
test-files: .venv/dev.stamp
	$(BIN)/python -m pytest -m files $(ARGS)

# Other engines read what this one writes; they are installed first, some gigabytes.
test-peers: .venv/dev.stamp
	$(BIN)/python -m pytest -m peers $(ARGS)

# Damaged files of each format, a minute each; of one: make fuzz ARGS="gguf -max_total_time=600".
fuzz: .venv/fuzz.stamp
	$(BIN)/python -m tests.models.fuzz_files $(ARGS)

# schemathesis against a server of a tiny model; shards that are done are not run again.
fuzz-api: .venv/dev.stamp
	$(BIN)/python -m tests.server.fuzz_api $(ARGS)

# docs/SUPPORT.md, from what passes.
support: .venv/dev.stamp
	$(BIN)/python -m pytest -q -m "not gpu and not files and not peers and not browser" tests/models tests/engine --support docs/SUPPORT.md

# Ops and models on the oldest torch that is supported.
test-oldest: .venv-oldest/test.stamp
	$(OLDEST)/python -m pytest -m "not gpu and not files and not peers and not browser and not slow" tests/ops tests/models $(ARGS)

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit -q -r src -ll -c pyproject.toml
	$(if $(CPP),$(BIN)/clang-format --dry-run --Werror $(CPP))

# What is installed, as CycloneDX; and whether anything of it has a known hole, which asks the index.
sbom: .venv/dev.stamp
	mkdir -p build
	$(BIN)/cyclonedx-py environment .venv --pyproject pyproject.toml --of JSON -o build/sbom.json

audit: .venv/dev.stamp
	$(BIN)/pip-audit --local --skip-editable

bench: .venv/bench.stamp
	$(BIN)/pieria bench ops $(ARGS)

# The same work on this and on other engines, which it installs first; on an idle machine.
bench-peers: .venv/bench.stamp
	$(BIN)/python -m benchmarks.peers $(ARGS)

# What a server must survive: 200 kills of its engine under 32 streams, 10,000 clients that leave, an
# hour of load with bad input. Each fails if anything was lost, leaked or grew.
kills aborts soak: .venv/dev.stamp
	$(BIN)/python -m benchmarks.robust.$@ $(ARGS)

# What another key waits beside one that floods, and what an idle server takes.
fairness idle: .venv/dev.stamp
	$(BIN)/python -m benchmarks.robust.$@ $(ARGS)

clean:
	rm -rf .venv .venv-oldest build dist src/*.egg-info src/pieria/kernels/cpu/lib .mypy_cache .pytest_cache .ruff_cache

# A stamp is as old as what it says is installed, so that only a change to these files installs again.
.venv/%.stamp: pyproject.toml setup.py constraints/cpu.txt $(KERNELS) | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints/cpu.txt -e ".[$*]"
	touch $@

.venv-oldest/test.stamp: pyproject.toml setup.py constraints/cpu.txt $(KERNELS) | $(OLDEST)/python
	sed 's/^torch==.*/torch==2.7.0/' constraints/cpu.txt > .venv-oldest/constraints.txt
	$(OLDEST)/python -m pip install --disable-pip-version-check -c .venv-oldest/constraints.txt -e ".[test]"
	touch $@

$(BIN)/python $(OLDEST)/python:
	$(PYTHON) -m venv $(patsubst %/bin/python,%,$@)
