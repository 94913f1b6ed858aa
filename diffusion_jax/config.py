"""An experiment: what its config file says, as frozen dataclasses, with every check of a setting.

Each section of a config becomes the dataclass that stands beside what it configures. What a network shares
with its data (image size, channels, classes) is filled in here, so that no config says it twice.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.data.config import DataConfig, check_data
from diffusion_jax.diffusion import schedules
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.config import EvaluateConfig
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.models import ClassifierConfig, UNetConfig, check_classifier, check_unet
from diffusion_jax.settings import at_least, fill, in_section, one_of, read_section, read_value
from diffusion_jax.sharding import MeshConfig
from diffusion_jax.training.config import TrainConfig

STAGES = ('train', 'train_classifier', 'sample', 'evaluate')


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Folders of checkpoints (such as runs/digits/diffusion) to use instead of training; '' is none."""

    diffusion: str = ''
    classifier: str = ''


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A whole experiment. `stages` are those that run when none is named on the command line."""

    stages: tuple[str, ...]
    data: DataConfig
    diffusion: DiffusionConfig
    unet: UNetConfig
    classifier: ClassifierConfig
    train: TrainConfig
    train_classifier: TrainConfig
    sample: SampleConfig = SampleConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    pretrained: Pretrained = Pretrained()
    mesh: MeshConfig = MeshConfig()
    seed: int = 0


# What follows from the data and the process: no section of a config may say it.
SHARED = ('image_size', 'image_channels', 'num_classes')
DERIVED = {'unet': (*SHARED, 'out_channels'), 'classifier': SHARED}


def complete(*, stages: tuple[str, ...], seed: int = 0, **sections: Mapping[str, Any]) -> ConfigDict:
    """A config file's experiment with every setting in it, so that the command line can change each of them.

    What a section does not name has its dataclass's default. Nothing is checked before `read_experiment`.
    """
    hints = typing.get_type_hints(Experiment)
    filled = {
        field.name: fill(hints[field.name], sections.pop(field.name, {}), DERIVED.get(field.name, ()))
        for field in dataclasses.fields(Experiment)
        if dataclasses.is_dataclass(hints[field.name])
    }
    filled['unet'] = {'class_conditional': False} | filled['unet']
    return ConfigDict({'stages': stages, 'seed': seed, **filled, **sections})


def read_experiment(config: Mapping[str, Any]) -> Experiment:
    """The config, as a plain nested dict, checked and complete.

    Raises:
        UserError: something cannot work; the message names the key, its value and what is allowed.
    """
    data = read_section(DataConfig, config.get('data'), 'data')
    diffusion = read_section(DiffusionConfig, config.get('diffusion'), 'diffusion')
    shared = {name: getattr(data, name) for name in SHARED}
    unet = dict(config.get('unet', {}))
    conditional = read_value(bool, unet.pop('class_conditional', False), 'unet.class_conditional')
    unet_derived = shared | {
        'num_classes': data.num_classes if conditional else None,
        'out_channels': data.image_channels * (2 if diffusion.learned_variance else 1),
    }
    networks = {
        'unet': read_section(UNetConfig, unet, 'unet', unet_derived),
        'classifier': read_section(ClassifierConfig, config.get('classifier'), 'classifier', shared),
    }
    experiment = read_section(Experiment, {**config, 'data': data, 'diffusion': diffusion, **networks}, '')
    _check(experiment)
    return experiment


def _check(experiment: Experiment) -> None:
    check_data(experiment.data)
    in_section('unet.', check_unet, experiment.unet)
    in_section('classifier.', check_classifier, experiment.classifier)
    for stage in experiment.stages:
        one_of('stages', stage, STAGES)
    _check_diffusion(experiment.diffusion)
    _check_train('train', experiment.train)
    _check_train('train_classifier', experiment.train_classifier)
    _check_sample(experiment)
    one_of('evaluate.judge', experiment.evaluate.judge, ('', 'digits_svm'))
    if experiment.evaluate.judge and experiment.data.name != 'digits':
        raise UserError('config.evaluate.judge is digits_svm; it knows only data.name = digits')


def _check_diffusion(diffusion: DiffusionConfig) -> None:
    one_of('diffusion.schedule', diffusion.schedule, ('linear', 'cosine'))
    one_of('diffusion.prediction', diffusion.prediction, ('eps', 'x_0', 'v', 'previous_x'))
    variances = ('fixed_small', 'fixed_large', 'learned', 'learned_range')
    one_of('diffusion.variance', diffusion.variance, variances)
    one_of('diffusion.loss', diffusion.loss, ('mse', 'rescaled_mse', 'kl', 'rescaled_kl'))
    at_least('diffusion.num_timesteps', diffusion.num_timesteps, 1)
    make_schedule(diffusion)


def make_schedule(diffusion: DiffusionConfig, respacing: str = '') -> schedules.Schedule:
    """The process of a config, respaced; UserError where that is impossible."""
    try:
        return schedules.make_schedule(
            diffusion.schedule, diffusion.num_timesteps, respacing, diffusion.rescale_timesteps
        )
    except ValueError as error:
        where = f'sample.respacing is {respacing!r}' if respacing else 'diffusion.schedule'
        raise UserError(f'config.{where}: {error}') from error


def _check_train(where: str, train: TrainConfig) -> None:
    positive = ('num_steps', 'batch_size', 'microbatches', 'log_every', 'keep_checkpoints')
    for name in positive:
        at_least(f'{where}.{name}', getattr(train, name), 1)
    not_negative = ('learning_rate', 'warmup_steps', 'weight_decay', 'clip_norm')
    not_negative += ('validate_every', 'sample_every', 'checkpoint_every')
    for name in not_negative:
        at_least(f'{where}.{name}', getattr(train, name), 0)
    one_of(f'{where}.learning_rate_schedule', train.learning_rate_schedule, ('constant', 'linear', 'cosine'))
    one_of(f'{where}.timestep_sampler', train.timestep_sampler, ('uniform', 'loss_second_moment'))
    if train.batch_size % train.microbatches:
        raise UserError(
            f'config.{where}.batch_size is {train.batch_size}; it must be divisible by '
            f'{where}.microbatches, {train.microbatches}'
        )
    if train.warmup_steps >= train.num_steps:
        raise UserError(
            f'config.{where}.warmup_steps is {train.warmup_steps}; it must be less than '
            f'{where}.num_steps, {train.num_steps}'
        )
    for rate in train.ema_rates:
        if not 0 < rate < 1:
            raise UserError(f'config.{where}.ema_rates has {rate}; a rate lies between 0 and 1, as 0.9999')


def _check_sample(experiment: Experiment) -> None:
    sample = experiment.sample
    one_of('sample.sampler', sample.sampler, ('ddpm', 'ddim'))
    one_of('sample.labels', sample.labels, ('balanced', 'random'))
    for name in ('num_samples', 'batch_size', 'grid_columns'):
        at_least(f'sample.{name}', getattr(sample, name), 1)
    for name in ('eta', 'scale', 'seed'):
        at_least(f'sample.{name}', getattr(sample, name), 0)
    make_schedule(experiment.diffusion, sample.respacing)
    for label in sample.classes:
        if not 0 <= label < experiment.data.num_classes:
            last = experiment.data.num_classes - 1
            raise UserError(f'config.sample.classes has {label}; the data has the classes 0 to {last}')
    rates = experiment.train.ema_rates
    if sample.ema_rate and sample.ema_rate not in rates and not experiment.pretrained.diffusion:
        raise UserError(
            f'config.sample.ema_rate is {sample.ema_rate}; it must be one of train.ema_rates, {rates}'
        )
    if '/' in sample.name or sample.name.startswith('.') or sample.name == 'unguided':
        raise UserError(f'config.sample.name is {sample.name!r}; it must be a plain folder name')
