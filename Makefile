# `make demo` and `make test` do everything on a fresh machine with Python 3.10 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: demo demo-data check test faults gpu clients lint format clean
.DELETE_ON_ERROR:

$(VENV)/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed: make PYTHON=/path/to/python3.11 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# For every edit: lint, types and the tests that tests/conftest.py does not mark as slow.
check: $(VENV)/.ready lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

# Three on two cores, for many tests wait for processes.
test: $(VENV)/.ready lint
	OMP_NUM_THREADS=1 TORCHINDUCTOR_COMPILE_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal --durations 30

# Under an hour; `make test` has a short form of it.
faults: $(VENV)/.ready
	OMP_NUM_THREADS=1 LAMA_KILLS=50 LAMA_SIGNALS=40 $(BIN)/python -m pytest -rP \
		tests/bin/test_kill_and_resume.py tests/io/test_signals.py tests/training/test_lock.py

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo-data: $(VENV)/.ready
	$(BIN)/python bin/prepare_sample_photos.py $(DEMO)/data

demo: demo-data
	bash bin/demo.sh $(BIN)/python $(DEMO)

# By the Python it is given, which has the packages; see docs/gpus.md for OUT, STEPS and DEVICE.
gpu:
	@PYTHON="$(PYTHON)" OUT="$(OUT)" STEPS="$(STEPS)" DEVICE="$(DEVICE)" bash benchmarks/gpu.sh

# Programs of others with our exports, each installed under build/clients; see docs/export.md. Not a part of CI.
clients: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check onnx onnxscript onnxruntime
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/clients.py $(CLIENTS)

clean:
	rm -rf $(VENV) $(DEMO)
