"""What a run takes from outside, checked before its first stage, so that nothing is computed in vain."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from diffusion_jax.data.checking import check_images
from diffusion_jax.data.classes import check_same_classes
from diffusion_jax.data.sources import Source, class_names
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import Experiment
from diffusion_jax.generation.config import LikelihoodConfig
from diffusion_jax.generation.requests import check_null_class
from diffusion_jax.sharding import check_batch_size
from diffusion_jax.stages.evaluate import check_evaluation
from diffusion_jax.stages.networks import STAGES, check_network, network_path
from diffusion_jax.stages.run import Run
from diffusion_jax.stages.sample_inputs import load_base, load_labels
from diffusion_jax.stages.sample_quality import check_quality
from diffusion_jax.stages.tuning import check_start
from diffusion_jax.stored_networks import CLASSIFIER, DIFFUSION, describe_stored, stored_classes


def check_inputs(run: Run, stages: Collection[str]) -> None:
    """UserError where the devices, the data or a pretrained network do not fit the stages that will run."""
    if 'train_classifier' in stages and run.experiment.data.num_classes == 1:
        raise UserError(
            'config.data.num_classes is 1; the stage train_classifier needs at least two classes, name the '
            'other stages: --stage=train,sample'
        )
    _check_batches(run, stages)
    _check_networks(run, stages)
    if 'sample' in stages and STAGES[DIFFUSION] not in stages:
        _check_null_class(run)
    if {'sample', *STAGES.values()} & set(stages):
        _check_classes(run, stages)
    if 'sample' in stages and run.experiment.unet.low_res:
        load_base(run)
    elif 'sample' in stages and run.experiment.sample.labels_from_file:
        load_labels(run)
    sources = {split: run.source(split) for split in _splits(run.experiment, stages)}
    for split in _read_splits(run.experiment, stages):
        check_images(sources[split], run.experiment.data, split, run.stop)
    if 'likelihood' in stages:
        _check_likelihood(run.experiment.likelihood, sources)
    if 'evaluate' in stages:
        check_evaluation(run)
    if 'train' in stages and run.experiment.train.evaluate_every:
        check_quality(run)


def _check_batches(run: Run, stages: Collection[str]) -> None:
    for stage in STAGES.values():
        config = getattr(run.experiment, stage)
        if stage in stages:
            key = f'{stage}.batch_size' + (f' / {stage}.microbatches' if config.microbatches > 1 else '')
            check_batch_size(run.mesh, config.batch_size // config.microbatches, key)
    draws = run.experiment.train.sample_every or run.experiment.train.evaluate_every
    if 'sample' in stages or ('train' in stages and draws):
        check_batch_size(run.mesh, run.experiment.sample.batch_size, 'sample.batch_size')
    if 'likelihood' in stages:
        check_batch_size(run.mesh, run.experiment.likelihood.batch_size, 'likelihood.batch_size')


def _check_networks(run: Run, stages: Collection[str]) -> None:
    experiment = run.experiment
    guided = 'sample' in stages and experiment.sample.guided
    needed = {DIFFUSION: not {'sample', 'likelihood'}.isdisjoint(stages), CLASSIFIER: guided}
    for name, network in ((DIFFUSION, experiment.unet), (CLASSIFIER, experiment.classifier)):
        pretrained = getattr(experiment.pretrained, name)
        if STAGES[name] in stages and pretrained:
            check_start(Path(pretrained), network, experiment.diffusion)
        elif STAGES[name] not in stages and needed[name]:
            check_network(run, name)


def _check_null_class(run: Run) -> None:
    """UserError where guidance asks for a null class that the stored diffusion model was not trained with."""
    path = network_path(run, DIFFUSION)
    if 'null' in run.experiment.sample.as_recipe().needs:
        try:
            check_null_class(describe_stored(path).network)
        except UserError as error:
            raise UserError(f'{path}: {error}') from error


def _check_classes(run: Run, stages: Collection[str]) -> None:
    """UserError where the diffusion model and the classifier mean other classes by the same labels."""
    if run.experiment.unet.num_classes is None or run.experiment.classifier is None:
        return
    where = {name: str(network_path(run, name)) for name in STAGES}
    names = {name: stored_classes(network_path(run, name)) for name in STAGES}
    for name, stage in STAGES.items():
        if stage in stages and not (run.workdir / name).exists():  # else its training compares the images
            where[name], names[name] = 'config.data', class_names(run.source('train'))
    check_same_classes(where[CLASSIFIER], names[CLASSIFIER], where[DIFFUSION], names[DIFFUSION])


def _splits(experiment: Experiment, stages: Collection[str]) -> list[str]:
    """The splits that the stages need."""
    needed = _read_splits(experiment, stages)
    if 'evaluate' in stages or ('train' in stages and experiment.train.evaluate_every):
        needed += experiment.evaluate.splits
    return list(dict.fromkeys(needed))


def _read_splits(experiment: Experiment, stages: Collection[str]) -> list[str]:
    """Those of which an unreadable image would stop a stage; an evaluation leaves it out."""
    validates = 'train_classifier' in stages and experiment.train_classifier.validate_every > 0
    trains = not set(stages).isdisjoint(STAGES.values())
    read = {'train': trains, 'test': validates}
    if 'likelihood' in stages:
        read[experiment.likelihood.split] = True
    return [split for split, used in read.items() if used]


def _check_likelihood(config: LikelihoodConfig, sources: Mapping[str, Source]) -> None:
    available = len(sources[config.split])
    if config.num_images > available:
        raise UserError(
            f'config.likelihood.num_images is {config.num_images}; the {config.split} split has {available}; '
            'give at most that, or 0 for all'
        )
