#!/usr/bin/env bash
# ImageNet 64×64 with the paper's settings on the 8 NVIDIA GPUs of one machine, in one process.
#
# Edit:    IMAGENET (a folder as described in README.md of this folder), RUN.
# Install: python3 -m venv .venv && .venv/bin/pip install '.[cuda]', in the folder of the repository.
# Trial:   bash experiments/launch/eight_gpus.sh --workdir=runs/trial --config.train.num_steps=200 \
#          --config.train_classifier.num_steps=200 --config.sample.num_samples=256, a few steps of each stage.
# Start:   bash experiments/launch/eight_gpus.sh, in the folder of the repository. The same command resumes.
# Tested:  the flags, by tests/experiments/test_launch.py. It was not run on GPUs.
set -euo pipefail

IMAGENET=/data/imagenet
RUN=runs/imagenet64

export JAX_COMPILATION_CACHE_DIR="$HOME/.cache/jax"

# Every GPU holds all parameters and 32 images at a time: 2,048 images a step, in 8 microbatches over 8 GPUs.
# --config.mesh.fsdp=8 splits parameters, average and Adam's moments over the GPUs instead.
exec .venv/bin/python -m diffusion_jax.main --config=configs/imagenet64.py --workdir="$RUN" \
  --config.data.path="$IMAGENET" --config.train.microbatches=8 --config.train_classifier.microbatches=4 \
  --config.train.checkpoint_every=5000 "$@"
