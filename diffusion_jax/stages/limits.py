"""Which settings to change where a part of a stage does not fit into memory."""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager

import jax

from diffusion_jax.errors import UserError
from diffusion_jax.experiment import Experiment
from diffusion_jax.memory import out_of_memory
from diffusion_jax.stages.networks import CLASSIFIER, DIFFUSION, STAGES

NAMES = {DIFFUSION: 'the diffusion model', CLASSIFIER: 'the classifier'}
SECTIONS = {DIFFUSION: 'unet', CLASSIFIER: 'classifier'}


def training_step(experiment: Experiment, name: str) -> AbstractContextManager[None]:
    stage, section = STAGES[name], SECTIONS[name]
    remedies = [f'lower config.{stage}.batch_size ({getattr(experiment, stage).batch_size})']
    if getattr(experiment, section).remat:
        remedies.append(f'or raise config.{stage}.microbatches')
    else:
        remedies += [f'raise config.{stage}.microbatches', f'or set config.{section}.remat=True']
    return out_of_memory(f'a training step of {NAMES[name]}', ', '.join(remedies))


def check_batch(experiment: Experiment, name: str) -> None:
    """UserError where memory cannot hold one host's batch as uint8 and as float32."""
    stage = STAGES[name]
    batch_size = getattr(experiment, stage).batch_size
    needed = (
        5
        * math.prod((*experiment.data.image_size, experiment.data.image_channels))
        * batch_size
        // jax.process_count()
    )
    available = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    if needed > available:
        raise UserError(
            f'config.{stage}.batch_size is {batch_size}: the images of one batch need '
            f'{needed / 1e9:,.0f} GB, and this machine has {available / 1e9:,.0f} GB of memory; lower it'
        )


def initialisation(experiment: Experiment, name: str) -> AbstractContextManager[None]:
    section = SECTIONS[name]
    channels = getattr(experiment, section).model_channels
    return out_of_memory(
        f'the initialisation of {NAMES[name]}',
        f'lower config.{section}.model_channels ({channels}), or raise config.mesh.fsdp '
        f'({experiment.mesh.fsdp}) with more devices',
    )


def sampling(experiment: Experiment) -> AbstractContextManager[None]:
    return out_of_memory('sampling', f'lower config.sample.batch_size ({experiment.sample.batch_size})')


def likelihood(experiment: Experiment) -> AbstractContextManager[None]:
    batch_size = experiment.likelihood.batch_size
    return out_of_memory('the likelihood', f'lower config.likelihood.batch_size ({batch_size})')


def evaluation(experiment: Experiment) -> AbstractContextManager[None]:
    remedy = f'lower config.sample.num_samples ({experiment.sample.num_samples})'
    if experiment.evaluate.inception:
        remedy = f'lower config.evaluate.batch_size ({experiment.evaluate.batch_size})'
    return out_of_memory('the evaluation', remedy)
