# The developer's commands; CI runs these and nothing else. Everything is set up in .venv by the first target that needs it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help setup system demo test check lint types sweep sweep-engines bench bench-peers gpu clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F':.*?## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "edgecnn needs Python 3.11 or newer; set PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install --quiet -c constraints.txt -e '.[all]' --group dev
	touch $@

setup: $(VENV)/.ready ## create .venv with everything in it

demo: setup ## the main job on trained weights: export EfficientNet-Lite0 to INT8, verify it, predict a photo
	$(BIN)/edgecnn export efficientnet_lite0 --int8 -o build/demo/efficientnet_lite0-int8 --force
	$(BIN)/edgecnn verify build/demo/efficientnet_lite0-int8
	$(BIN)/edgecnn predict build/demo/efficientnet_lite0-int8 tests/data/cat.jpg

# What some tests drive: a browser, an ssh server, a C++ toolchain. CI installs them; elsewhere these tests are skipped, and say so.
DEBIAN := chromium openssh-server rsync cmake g++ nlohmann-json3-dev zlib1g-dev libjpeg-dev libpng-dev

system: ## the Debian packages that some tests need (as root, with apt-get)
	@missing=$$(for name in $(DEBIAN); do dpkg -s $$name >/dev/null 2>&1 || echo $$name; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then echo "not root, or no apt-get: some tests will be skipped without" $$missing; exit 0; fi; \
	(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null) \
	|| echo "apt-get failed: some tests will be skipped without" $$missing

JOBS ?= 2

test: setup $(if $(CI),system) ## the tests, in two processes (JOBS=8 where there are cores and 2 GB of memory for each)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder

check: lint types ## ruff, ruff format, mypy --strict, layering

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q tests/test_layers.py

types: setup
	rm -rf build/typing && mkdir -p build/typing
	cp -rs $(CURDIR)/edgecnn build/typing/edgecnn
	cp -rs $(CURDIR)/models build/typing/edgecnn/models
	cp -rs $(CURDIR)/calib build/typing/edgecnn/calib
	cp -rs $(CURDIR)/examples build/typing/edgecnn/examples
	$(BIN)/mypy

sweep: setup ## the heavy checks: large networks against their goldens, every model of the zoo through the main job (docs/ZOO.md)
	rm -rf build/sweep
	$(BIN)/python -m pytest -m sweep $(SWEEP); status=$$?; $(BIN)/python tests/sweep/table.py; exit $$status

sweep-engines: setup ## every model of the zoo through TensorRT-RTX's builder, on a CPU (docs/ZOO_ENGINES.md)
	rm -rf build/sweep-engines
	$(BIN)/python -m pytest -m sweep_engines $(or $(SWEEP),tests/sweep); status=$$?; $(BIN)/python tests/sweep/engines_table.py; exit $$status

bench: setup ## measure accuracy, latency, cost, beside onnxruntime.quantization (docs/BENCHMARKS.md)
	rm -rf build/bench
	$(BIN)/python -m pytest -m bench $(or $(BENCH),tests/bench); status=$$?; $(BIN)/python tests/bench/page.py; exit $$status

PEERS := build/peers
$(PEERS)/nncf/.ready:
	$(PYTHON) -m venv $(PEERS)/nncf
	$(PEERS)/nncf/bin/python -m pip --disable-pip-version-check --no-input install --quiet nncf==3.4.0 openvino onnx onnxruntime
	touch $@
$(PEERS)/modelopt/.ready:
	$(PYTHON) -m venv $(PEERS)/modelopt
	$(PEERS)/modelopt/bin/python -m pip --disable-pip-version-check --no-input install --quiet 'nvidia-modelopt[onnx]==0.47.0'
	touch $@

bench-peers: setup $(PEERS)/nncf/.ready $(PEERS)/modelopt/.ready ## measure NNCF and ModelOpt beside ours, each in its own environment
	rm -rf build/bench
	$(BIN)/python -m pytest -m bench_peers $(or $(BENCH),tests/bench); status=$$?; $(BIN)/python tests/bench/page.py; exit $$status

gpu: setup ## what needs an NVIDIA GPU, beside the CPU: onnxruntime's CUDA provider, engines, the plugin (docs/GPU.md)
	rm -rf build/gpu
	$(BIN)/python -m pytest -m gpu $(or $(GPU),tests); status=$$?; $(BIN)/python tests/gpu/page.py; exit $$status

clean: ## remove what was built, not the .venv
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
