#!/usr/bin/env bash
# ImageNet 64×64 on a TPU v5e-8: one VM with 8 chips of 16 GB, one process.
#
# Edit:    NAME, ZONE, IMAGENET (a folder on the VM, such as a mounted disk, as described in README.md of this
#          folder), RUN.
# Trial:   bash experiments/launch/tpu_v5e_8.sh --workdir=trial --config.train.num_steps=200 \
#          --config.train_classifier.num_steps=200 --config.sample.num_samples=256, a few steps of each stage.
# Start:   bash experiments/launch/tpu_v5e_8.sh, on your own machine in the folder of the repository, with
#          gcloud set up and quota for v5e. It creates the VM if it does not exist, copies and installs this
#          folder, starts the program there, and exits; the program continues without your machine. The same
#          command resumes an interrupted run, and does nothing while the program runs. If Google reclaimed the
#          VM (its state is PREEMPTED or TERMINATED), run End first.
# Look:    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --command='tail -f diffusion_jax/train.log'
#          Ctrl-C stops tail only.
# Stop:    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --command='pkill -f "[d]iffusion_jax.main"'
#          sends SIGTERM: the program saves and exits with code 130.
# End:     gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE". The VM costs money until then.
# Tested:  the flags, by tests/experiments/test_launch.py. It was not run on a TPU, nor with gcloud.
set -euo pipefail

NAME=diffusion
ZONE=us-west4-a
IMAGENET=/mnt/data/imagenet
RUN=/mnt/data/runs/imagenet64

vm() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE"; }

vm describe "$NAME" > /dev/null 2>&1 ||
  vm create "$NAME" --accelerator-type=v5litepod-8 --version=v2-alpha-tpuv5-lite

# Two programs cannot share the chips. Do not replace the code of a running program.
if vm ssh "$NAME" --command='pgrep -af "[d]iffusion_jax.main" || true' |
  grep 'diffusion_jax\.main'; then
  echo 'The program still runs; nothing was started. See Look and Stop in the head of this script.' >&2
  exit 1
fi

vm ssh "$NAME" --command='mkdir -p diffusion_jax'
vm scp --recurse setup.py README.md diffusion_jax configs "$NAME:diffusion_jax"

# The VM's own Python may be older than 3.11; uv installs a newer one.
vm ssh "$NAME" --command='curl -LsSf https://astral.sh/uv/install.sh | sh && cd diffusion_jax &&
  ~/.local/bin/uv venv --allow-existing --python 3.12 && ~/.local/bin/uv pip install --editable ".[tpu]"'

# Each chip holds an eighth of parameters, average and Adam's moments, and 16 images at a time.
vm ssh "$NAME" --command="cd diffusion_jax && export JAX_COMPILATION_CACHE_DIR=~/.cache/jax && {
  nohup .venv/bin/python -m diffusion_jax.main --config=configs/imagenet64.py --workdir=$RUN \
  --config.data.path=$IMAGENET --config.mesh.fsdp=8 \
  --config.train.microbatches=16 --config.train_classifier.microbatches=8 \
  --config.train.checkpoint_every=5000 $* >> train.log 2>&1 < /dev/null & }"
