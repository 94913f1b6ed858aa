"""Which settings to change where a part of a stage does not fit into memory."""

from __future__ import annotations

from contextlib import AbstractContextManager

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
