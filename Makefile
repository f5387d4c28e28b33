# Two commands do everything, set-up included: `make demo` and `make test`.
PYTHON ?= python3
FUZZ_SECONDS ?= 60
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Tests that look at all that the program has (processes, descriptors), or at who is first: two files at a time, on a
# core each. Those that look at all browsers of the user: alone. The rest is three at a time: much of it waits.
OF_ALL := ahead memory monitor no_fonts portal portal_clients portal_folder program_ends reports sharing supervision
BY_TWO := tests/bench $(OF_ALL:%=tests/browser/test_%.py) tests/faults tests/hostile/test_own_requests.py tests/hostile/test_taken_over.py
ALONE  := tests/cli/test_top.py

# Zygotes import all that children need each time they start: without bytecode each would compile it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test faults fuzz format bench soak clean

demo: $(STAMP)
	$(BIN)/cloister demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 3 --dist loadfile $(foreach each,$(BY_TWO) $(ALONE),--ignore=$(each))
	$(BIN)/python -m pytest -n 2 --dist loadfile $(BY_TWO)
	$(BIN)/python -m pytest $(ALONE)

faults: $(STAMP)
	$(BIN)/python -m pytest tests/faults -m ""

fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet atheris
	PYTHONPATH=. $(BIN)/python tests/fuzz/codec.py .fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -len_control=0 -artifact_prefix=.fuzz/

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet playwright "httpx[http2]" sandlock
	failed=0; for each in first_light supervision sandbox network names plugins; do $(BIN)/python bench/$$each.py || failed=1; done; exit $$failed

soak: $(STAMP)
	$(BIN)/python bench/soak.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .fuzz

# --group needs pip 25.1, which a machine's own Python may not have yet.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $(STAMP)
