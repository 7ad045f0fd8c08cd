# Two commands matter: `make demo` and `make test`. Both set up .venv by themselves.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
export TOKENIZERS_PARALLELISM ?= false

# The floors whose every line and branch is tested for itself (words and maths).
FLOORS := losses ops types tensors errors config settings thresholds

.PHONY: setup model demo test check coverage format bench learn gpu soak clean

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

model: setup
	@$(BIN)/python -m trueup.models.bundled >/dev/null

demo: model
	$(BIN)/trueup demo

test: model
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not soak and not gpu"

check: setup
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/ruff check --no-cache . # the cache does not see that a module has moved
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_floors.py tests/test_sizes.py tests/test_docs.py tests/test_public_names.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: model
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/page.py

# Learning curves of docs/benchmarks.md: some four hours on 2 cores. SCRATCH keeps the reward model and the runs.
SCRATCH ?= runs/learn
learn: model
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	for seed in 0 1 2; do \
		$(BIN)/python benchmarks/learn_rl.py --method ppo --seed $$seed --scratch $(SCRATCH) || exit 1; done
	for method in ppo rloo grpo iterative-dpo offline-dpo; do for seed in 0 1 2; do \
		$(BIN)/python benchmarks/learn_rl.py --method $$method --reviews whole --seed $$seed --scratch $(SCRATCH) \
			|| exit 1; done; done
	for seed in 0 1 2; do $(BIN)/python benchmarks/learn_arithmetic.py --seed $$seed --scratch $(SCRATCH) || exit 1; done
	for reviews in cut whole; do \
		$(BIN)/python benchmarks/reward_limit.py --reviews $$reviews --scratch $(SCRATCH) || exit 1; done
	$(BIN)/python benchmarks/page.py

coverage: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/losses tests/ops tests/test_settings.py $(FLOORS:%=--cov=trueup.%) \
		--cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=100

gpu: model
	$(BIN)/python -m pytest -m gpu

soak: model
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
