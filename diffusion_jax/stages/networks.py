"""Where the networks of a run are, and their parameters."""

from __future__ import annotations

import json
import logging
import zlib
from pathlib import Path
from typing import Any

from diffusion_jax.config import Experiment
from diffusion_jax.errors import UserError
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig
from diffusion_jax.sharding import replicated
from diffusion_jax.stages.run import Run
from diffusion_jax.training.checkpoints import check_checkpoint, latest_step, load_params
from diffusion_jax.workdir import read_stamp

logger = logging.getLogger(__name__)

DIFFUSION, CLASSIFIER = 'diffusion', 'classifier'
CHECKPOINTS = 'checkpoints'
STAGES = {DIFFUSION: 'train', CLASSIFIER: 'train_classifier'}


def network_directory(run: Run, name: str) -> Path:
    """The folder of a network's training: the workdir's own, or the pretrained one that the config names.

    A network that was fine-tuned here comes before the pretrained one that it was started from.
    """
    own, pretrained = run.workdir / name, getattr(run.experiment.pretrained, name)
    stamp = read_stamp(own)
    tuned = stamp is not None and stamp['pretrained'] == pretrained
    return own if not pretrained or tuned else Path(pretrained)


def network_stamp(run: Run, name: str) -> dict[str, Any]:
    """Which parameters a result rests on: the folder of their training, its settings and the step."""
    directory = network_directory(run, name)
    step = latest_step(directory / CHECKPOINTS)
    if step is None:
        raise UserError(
            f'{directory / CHECKPOINTS}: no checkpoint of the {name}; run the stage {STAGES[name]} first, or '
            f'set config.pretrained.{name} to a folder such as runs/digits/{name}'
        )
    inside = directory.is_relative_to(run.workdir)
    settings = zlib.crc32(json.dumps(read_stamp(directory), sort_keys=True).encode())
    folder = str(directory.relative_to(run.workdir) if inside else directory)
    return {'folder': folder, 'settings': f'{settings:08x}', 'step': step}


def load_network(run: Run, name: str) -> Params:
    """Parameters on every device of the mesh, of the average that sampling uses."""
    checkpoints = network_directory(run, name) / CHECKPOINTS
    params, step = load_params(checkpoints, *_wanted(run.experiment, name), replicated(run.mesh))
    logger.info('%s: parameters of %s, step %d', name, checkpoints.parent, step)
    return params


def check_network(run: Run, name: str) -> None:
    """UserError where sampling could not load what training does not make."""
    check_checkpoint(network_directory(run, name) / CHECKPOINTS, *_wanted(run.experiment, name))


def _wanted(experiment: Experiment, name: str) -> tuple[UNetConfig | ClassifierConfig, float]:
    """A network's architecture, and the rate of the average that sampling uses."""
    return {
        DIFFUSION: (experiment.unet, experiment.sample.ema_rate),
        CLASSIFIER: (experiment.classifier, experiment.sample.classifier_ema_rate),
    }[name]
