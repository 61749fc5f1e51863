# make demo   sets up everything, then fits MiniLM-L6 to a Raspberry Pi 4 in 16 MB and searches with it
# make test   sets up everything, then passes the tests
# make lint   style, types, direction of imports
# make docs   builds the documentation site
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs bench clean environment

environment: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml CMakeLists.txt $(wildcard native/*) tools/setup.sh
	PYTHON=$(PYTHON) tools/setup.sh $(VENV)
	touch $@

test: environment
	$(BIN)/python -m pytest

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: environment
	$(BIN)/ondevice fit minilm --device raspberry-pi-4 --storage 16MB --out demo/minilm-16MB --overwrite
	$(BIN)/python tools/python_docs.py demo/python-docs
	$(BIN)/ondevice app search demo/python-docs "how do I open a file and read it" --model demo/minilm-16MB
	cp demo/minilm-16MB/report.html report.html
	@echo "report.html shows what was gained and lost"

docs: environment
	$(BIN)/pip install --quiet '.[docs]'
	$(BIN)/mkdocs build --strict

bench: environment
	$(BIN)/python benchmarks/encoder.py

clean:
	rm -rf $(VENV) build dist site demo report.html
