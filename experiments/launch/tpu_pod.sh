#!/usr/bin/env bash
# ImageNet 256×256 on a slice of a TPU v5e pod: 32 chips of 16 GB on several hosts, one process on each.
#
# Edit:    NAME, ZONE, IMAGENET (a folder as described in README.md of this folder) and RUN. Both are in a
#          folder that all hosts share, such as a Filestore share (NFS) mounted at the same path on each: every host
#          reads its own images of a batch, and writes its own part of checkpoints and samples.
# Trial:   bash experiments/launch/tpu_pod.sh --workdir=/mnt/shared/runs/trial --config.train.num_steps=200 \
#          --config.train_classifier.num_steps=200 --config.sample.num_samples=32, a few steps of each stage.
# Start:   bash experiments/launch/tpu_pod.sh, on your own machine in the folder of the repository, with gcloud
#          set up and quota for v5e. It creates the slice if it does not exist, copies and installs this folder
#          on all hosts, starts the program there, and exits; the program continues without your machine. The
#          same command resumes an interrupted run, also if one host died, and does nothing while the program
#          runs on any host. If Google reclaimed the slice (its state is PREEMPTED or TERMINATED), run End first.
# Look:    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=0 \
#            --command='tail -f diffusion_jax/train.log'
#          Ctrl-C stops tail only. The log of the first host has the progress; the other hosts have their own.
# Stop:    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all \
#            --command='pkill -f "[d]iffusion_jax.main"'
#          sends SIGTERM: all hosts save and exit with code 130, which is the end of the log.
# End:     gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE". The slice costs money until then.
# Tested:  the flags, by tests/experiments/test_launch.py. It was not run on TPUs, nor with gcloud.
set -euo pipefail

NAME=diffusion-pod
ZONE=us-west4-a
IMAGENET=/mnt/shared/imagenet
RUN=/mnt/shared/runs/imagenet256

vm() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE"; }

vm describe "$NAME" > /dev/null 2>&1 ||
  vm create "$NAME" --accelerator-type=v5litepod-32 --version=v2-alpha-tpuv5-lite

# Two programs cannot share the chips. Do not replace the code of a running program.
if vm ssh "$NAME" --worker=all --command='pgrep -af "[d]iffusion_jax.main" || true' |
  grep 'diffusion_jax\.main'; then
  echo 'The program still runs; nothing was started. See Look and Stop in the head of this script.' >&2
  exit 1
fi

vm ssh "$NAME" --worker=all --command='mkdir -p diffusion_jax'
vm scp --recurse --worker=all setup.py README.md diffusion_jax configs "$NAME:diffusion_jax"

# The hosts' own Python may be older than 3.11; uv installs a newer one.
vm ssh "$NAME" --worker=all --command='curl -LsSf https://astral.sh/uv/install.sh | sh && cd diffusion_jax &&
  ~/.local/bin/uv venv --allow-existing --python 3.12 && ~/.local/bin/uv pip install --editable ".[tpu]"'

# JAX detects the hosts of a slice. Parameters, average and Adam's moments are split over 8 chips, batches
# over all 32.
vm ssh "$NAME" --worker=all --command="cd diffusion_jax && export JAX_COMPILATION_CACHE_DIR=~/.cache/jax && {
  nohup .venv/bin/python -m diffusion_jax.main --config=configs/imagenet256.py --workdir=$RUN --distributed \
  --config.data.path=$IMAGENET --config.mesh.fsdp=8 --config.unet.remat=True \
  --config.train.checkpoint_every=2000 --config.train_classifier.checkpoint_every=2000 \
  $* >> train.log 2>&1 < /dev/null & }"
