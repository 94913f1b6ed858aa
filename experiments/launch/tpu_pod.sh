#!/usr/bin/env bash
# ImageNet 256×256 on a slice of a TPU v5e pod: 32 chips of 16 GB on several hosts, a process on each.
#
# Edit:    NAME, ZONE, IMAGENET (as README.md here says) and RUN. Both are in a folder that all hosts share,
#          such as a Filestore share (NFS) that is mounted at one place on each: every host reads its own
#          images of a batch, and writes its own part of checkpoints and samples.
# Trial:   bash experiments/launch/tpu_pod.sh --workdir=/mnt/shared/runs/trial --config.train.num_steps=200 \
#          --config.train_classifier.num_steps=200 --config.sample.num_samples=32 for few steps of each stage.
# Start:   bash experiments/launch/tpu_pod.sh, on your own machine in the folder of the repository, with
#          gcloud set up and quota for v5e. It creates the slice if it is not there, copies and installs this
#          folder on all hosts, starts the program there, and ends; the program goes on without your machine.
#          After any interruption, also if one host died: the same again, which changes nothing if the program
#          still runs on any host. If Google took the slice back (its state is PREEMPTED or TERMINATED): the
#          same after End.
# Look:    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=0 \
#            --command='tail -f diffusion_jax/train.log'
#          Ctrl-C ends the looking alone. The first host's log has the progress; the others have their own.
# Stop:    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all \
#            --command='pkill -f "[d]iffusion_jax.main"'
#          which is SIGTERM: all save and leave (exit code 130), as the end of the log says.
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

# Two programs cannot share the chips, and the code of one that runs stays as it is.
if vm ssh "$NAME" --worker=all --command='pgrep -af "[d]iffusion_jax.main" || true' |
  grep 'diffusion_jax\.main'; then
  echo 'It still runs: nothing was started. See Look and Stop.' >&2
  exit 1
fi

vm ssh "$NAME" --worker=all --command='mkdir -p diffusion_jax'
vm scp --recurse --worker=all setup.py README.md diffusion_jax configs "$NAME:diffusion_jax"

# The hosts' own Python may be older than 3.11; uv brings one.
vm ssh "$NAME" --worker=all --command='curl -LsSf https://astral.sh/uv/install.sh | sh && cd diffusion_jax &&
  ~/.local/bin/uv venv --allow-existing --python 3.12 && ~/.local/bin/uv pip install --editable ".[tpu]"'

# JAX finds the hosts of a slice by itself. Parameters, average and Adam's moments are split over 8 chips,
# batches over all 32.
vm ssh "$NAME" --worker=all --command="cd diffusion_jax && export JAX_COMPILATION_CACHE_DIR=~/.cache/jax && {
  nohup .venv/bin/python -m diffusion_jax.main --config=configs/imagenet256.py --workdir=$RUN --distributed \
  --config.data.path=$IMAGENET --config.mesh.fsdp=8 --config.unet.remat=True \
  --config.train.checkpoint_every=2000 --config.train_classifier.checkpoint_every=2000 \
  $* >> train.log 2>&1 < /dev/null & }"
