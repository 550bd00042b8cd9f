# Everything runs in .venv; a target installs what it needs once and works offline from then on.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help demo test test-slow check format train-motion train-motion-short eval-motion motion-gallery clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 22

$(VENV)/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and "Python >= 3.10 is needed, $(PYTHON) is %d.%d; try: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.base  ## ask the sample video a question and draw its DynImgs into out/
	@mkdir -p out
	$(BIN)/dynimg-vl ask examples/ball.mp4 "Which way does the object move?"
	$(BIN)/dynimg-vl show examples/ball.mp4 -o out/dynimgs.png

test: $(VENV)/.dev  ## the fast suite, offline
	$(BIN)/python -m pytest -m 'not slow and not gpu' -n auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/.dev  ## what the fast suite leaves out, except what needs a GPU (pytest -m gpu)
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.dev  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

train-motion: $(VENV)/.dev  ## train the embedded model from scratch (CPU, hours); started again, it goes on
	$(BIN)/dynimg-vl train recipes/motion_cpu.yaml
	$(BIN)/dynimg-vl train recipes/motion_further_heads.yaml
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc-per-node 2 -m dynimg_vl train recipes/motion_further.yaml
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc-per-node 2 -m dynimg_vl train recipes/motion_shapes.yaml

train-motion-short: $(VENV)/.dev  ## the same from one recipe, in about two hours of two cores, and less good
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc-per-node 2 -m dynimg_vl train recipes/motion_short.yaml

eval-motion: $(VENV)/.dev  ## evaluate the embedded model through real video files
	$(BIN)/python scripts/eval_motion.py -o runs/motion_eval.json

motion-gallery: $(VENV)/.dev  ## draw docs/motion_gallery.md: twelve clips, their DynImgs, questions and answers
	$(BIN)/python scripts/make_gallery.py

clean:  ## remove the environment and what was built
	rm -rf $(VENV) out build dist
