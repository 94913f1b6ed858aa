#!/usr/bin/env bash
# Your own images on one NVIDIA GPU: trains the diffusion model and its classifier, then samples.
#
# Edit:    IMAGES (IMAGES/train/<class>/*.jpg and IMAGES/test/<class>/*.jpg), CLASSES, RUN.
# Install: python3 -m venv .venv && .venv/bin/pip install '.[cuda]', in the folder of the repository.
# Trial:   bash experiments/launch/one_gpu.sh --workdir=runs/trial --config.train.num_steps=200 \
#          --config.train_classifier.num_steps=200, a few steps of each stage.
# Start:   bash experiments/launch/one_gpu.sh, in the folder of the repository. The same command resumes.
# Tested:  the flags, by tests/experiments/test_launch.py. It was not run on a GPU.
set -euo pipefail

IMAGES=images
CLASSES=7
RUN=runs/mine

# Keeps compiled programs, so that a resumed run starts sooner.
export JAX_COMPILATION_CACHE_DIR="$HOME/.cache/jax"

# If memory is too small, add --config.train.microbatches=16 (or 32, …), which changes only the speed.
exec .venv/bin/python -m diffusion_jax.main --config=configs/folder.py --workdir="$RUN" \
  --config.data.path="$IMAGES" --config.data.num_classes="$CLASSES" "$@"
