"""Where the networks of a run are, and their parameters."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from diffusion_jax.errors import UserError
from diffusion_jax.sharding import replicated
from diffusion_jax.stages.run import Run
from diffusion_jax.training.checkpoints import latest_step, load_params
from diffusion_jax.workdir import STAMP_FILE

logger = logging.getLogger(__name__)

DIFFUSION, CLASSIFIER = 'diffusion', 'classifier'
CHECKPOINTS = 'checkpoints'
STAGES = {DIFFUSION: 'train', CLASSIFIER: 'train_classifier'}


def network_directory(run: Run, name: str) -> Path:
    """The folder of a network's training: the workdir's own, or the pretrained one that the config names.

    A network that was fine-tuned here comes before the pretrained one that it was started from.
    """
    own, pretrained = run.workdir / name, getattr(run.experiment.pretrained, name)
    if not pretrained:
        return own
    stamp = own / STAMP_FILE
    tuned = stamp.exists() and json.loads(stamp.read_text())['pretrained'] == pretrained
    return own if tuned and latest_step(own / CHECKPOINTS) is not None else Path(pretrained)


def network_stamp(run: Run, name: str) -> dict[str, Any]:
    """Which parameters a result rests on: the folder of their training and the step."""
    directory = network_directory(run, name)
    step = latest_step(directory / CHECKPOINTS)
    if step is None:
        raise UserError(
            f'{directory / CHECKPOINTS}: no checkpoint of the {name}; run the stage {STAGES[name]} first, or '
            f'set config.pretrained.{name} to a folder such as runs/digits/{name}'
        )
    inside = directory.is_relative_to(run.workdir)
    return {'folder': str(directory.relative_to(run.workdir) if inside else directory), 'step': step}


def load_network(run: Run, name: str) -> Any:
    """Parameters on every device of the mesh: of the diffusion model, the average that the sampler uses."""
    directory = network_directory(run, name)
    config, rate = {
        DIFFUSION: (run.experiment.unet, run.experiment.sample.ema_rate),
        CLASSIFIER: (run.experiment.classifier, run.experiment.sample.classifier_ema_rate),
    }[name]
    params, step = load_params(directory / CHECKPOINTS, config, rate, replicated(run.mesh))
    logger.info('%s: parameters of %s, step %d', name, directory, step)
    return params
