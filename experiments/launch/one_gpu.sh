#!/usr/bin/env bash
# Your own images on one NVIDIA GPU: trains the diffusion model and its classifier, then samples.
#
# Edit:    IMAGES (IMAGES/train/<class>/*.jpg and IMAGES/test/<class>/*.jpg), CLASSES, RUN.
# Install: python3 -m venv .venv && .venv/bin/pip install '.[cuda]', in the folder of the repository.
# Trial:   bash experiments/launch/one_gpu.sh --workdir=runs/trial --config.train.num_steps=200 \
#          --config.train_classifier.num_steps=200 for few steps of each stage.
# Start:   bash experiments/launch/one_gpu.sh, there. After any interruption: the same again.
# Tested:  the command's flags, by tests/experiments/test_launch.py. It was not run on a GPU.
set -euo pipefail

IMAGES=images
CLASSES=7
RUN=runs/mine

# Compiled programs are kept: a run that goes on starts sooner.
export JAX_COMPILATION_CACHE_DIR="$HOME/.cache/jax"

# Out of memory? Add --config.train.microbatches=2 (or 4, …), which changes no result but the speed.
exec .venv/bin/python -m diffusion_jax.main --config=configs/folder.py --workdir="$RUN" \
  --config.data.path="$IMAGES" --config.data.num_classes="$CLASSES" "$@"
