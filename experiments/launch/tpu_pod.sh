#!/usr/bin/env bash
# ImageNet 256×256 on a slice of a TPU v5e pod: 32 chips of 16 GB on several hosts, a process on each.
#
# Edit:    NAME, ZONE, IMAGENET and RUN. Both are in a folder that all hosts share, such as a Filestore share
#          (NFS) that is mounted at one place on each: every host reads its own images of a batch, and writes
#          its own part of checkpoints and samples.
# Start:   bash experiments/launch/tpu_pod.sh, on your own machine in the folder of the repository, with gcloud
#          set up and quota for v5e. It creates the slice if it is not there, copies and installs this folder
#          on all hosts, and runs. After any interruption, also if one host died: the same again; if Google took
#          the slice back (its state is PREEMPTED or TERMINATED), after End.
# Stop:    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all
#          --command='pkill -f "[d]iffusion_jax.main"', which has all hosts save and leave. Ctrl-C here may end
#          the connections alone.
# End:     gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE". Until then it costs money.
# Tested:  the command's flags, by tests/experiments/test_launch.py. It was not run on TPUs, nor with gcloud.
set -euo pipefail

NAME=diffusion-pod
ZONE=us-west4-a
IMAGENET=/mnt/shared/imagenet
RUN=/mnt/shared/runs/imagenet256

vm() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE"; }

vm describe "$NAME" > /dev/null 2>&1 ||
  vm create "$NAME" --accelerator-type=v5litepod-32 --version=v2-alpha-tpuv5-lite
vm ssh "$NAME" --worker=all --command='mkdir -p diffusion_jax'
vm scp --recurse --worker=all setup.py README.md diffusion_jax configs "$NAME:diffusion_jax"

# The hosts' own Python may be older than 3.11; uv brings one.
vm ssh "$NAME" --worker=all --command='curl -LsSf https://astral.sh/uv/install.sh | sh && cd diffusion_jax &&
  ~/.local/bin/uv venv --allow-existing --python 3.12 && ~/.local/bin/uv pip install --editable ".[tpu]"'

# JAX finds the hosts of a slice by itself. Parameters, average and Adam's moments are split over 8 chips,
# batches over all 32.
vm ssh "$NAME" --worker=all --command="cd diffusion_jax && JAX_COMPILATION_CACHE_DIR=~/.cache/jax \
  .venv/bin/python -m diffusion_jax.main --config=configs/imagenet256.py --workdir=$RUN --distributed \
  --config.data.path=$IMAGENET --config.mesh.fsdp=8 --config.unet.remat=True \
  --config.train.checkpoint_every=2000 --config.train_classifier.checkpoint_every=2000"
