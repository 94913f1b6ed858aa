"""What a run takes from outside, checked before its first stage, so that nothing is computed in vain."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

from diffusion_jax.config import Experiment
from diffusion_jax.data.sources import make_source
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.pixels import MAX_DIMENSIONS
from diffusion_jax.sharding import check_batch_size
from diffusion_jax.stages.networks import CLASSIFIER, DIFFUSION, STAGES, check_network
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample import load_base
from diffusion_jax.stages.tuning import check_start


def check_inputs(run: Run, stages: Collection[str]) -> None:
    """UserError where the devices, the data or a pretrained network do not fit the stages that will run."""
    _check_batches(run, stages)
    _check_networks(run, stages)
    if 'sample' in stages and run.experiment.unet.low_res:
        load_base(run)
    for split in _splits(run.experiment, stages):
        make_source(run.experiment.data, split)
    if 'evaluate' in stages:
        _check_evaluation(run.experiment)


def _check_batches(run: Run, stages: Collection[str]) -> None:
    for stage in STAGES.values():
        config = getattr(run.experiment, stage)
        if stage in stages:
            key = f'{stage}.batch_size' + (f' / {stage}.microbatches' if config.microbatches > 1 else '')
            check_batch_size(run.mesh, config.batch_size // config.microbatches, key)
    if 'sample' in stages or ('train' in stages and run.experiment.train.sample_every):
        check_batch_size(run.mesh, run.experiment.sample.batch_size, 'sample.batch_size')


def _check_networks(run: Run, stages: Collection[str]) -> None:
    experiment = run.experiment
    needed = [DIFFUSION, CLASSIFIER] if experiment.sample.guided else [DIFFUSION]
    for name, network in ((DIFFUSION, experiment.unet), (CLASSIFIER, experiment.classifier)):
        pretrained = getattr(experiment.pretrained, name)
        if STAGES[name] in stages and pretrained:
            check_start(Path(pretrained), network, experiment.diffusion)
        elif STAGES[name] not in stages and 'sample' in stages and name in needed:
            check_network(run, name)


def _splits(experiment: Experiment, stages: Collection[str]) -> list[str]:
    evaluates = 'evaluate' in stages
    validates = 'train_classifier' in stages and experiment.train_classifier.validate_every > 0
    trains = not set(stages).isdisjoint(STAGES.values())
    return ['train'] * (trains or evaluates) + ['test'] * (validates or evaluates)


def _check_evaluation(experiment: Experiment) -> None:
    dimensions = math.prod(experiment.data.image_size) * experiment.data.image_channels
    if dimensions > MAX_DIMENSIONS:
        raise UserError(
            f'config.data.image_size gives images of {dimensions} values; the stage evaluate compares pixels '
            f'and takes at most {MAX_DIMENSIONS}; leave it out of config.stages'
        )
    if experiment.sample.num_samples < 4:
        raise UserError('config.sample.num_samples is below 4; the stage evaluate needs 3 neighbours of each')
