"""From an experiment's config, a nested dict, to frozen dataclasses, with every check of a setting.

Each section of a config becomes the dataclass that stands beside what it configures. Unknown keys and wrong
types are errors here; what a network shares with its data (image size, channels, classes) is filled in here,
so that no config says it twice.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from diffusion_jax.data.config import DataConfig, check_data
from diffusion_jax.diffusion import schedules
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.config import EvaluateConfig
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.models import ClassifierConfig, UNetConfig, check_classifier, check_unet
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


def read_experiment(config: Mapping[str, Any]) -> Experiment:
    """Raises UserError, naming the key, its value and what is allowed, for anything that cannot work."""
    _require(config, Experiment, 'config')
    data = read_section(DataConfig, config['data'], 'data')
    diffusion = read_section(DiffusionConfig, config['diffusion'], 'diffusion')
    shared = {'image_size': data.image_size, 'image_channels': data.image_channels}
    networks = {
        'unet': _read_unet(config['unet'], data, diffusion, shared),
        'classifier': read_section(
            ClassifierConfig, config['classifier'], 'classifier', shared | {'num_classes': data.num_classes}
        ),
    }
    experiment = read_section(Experiment, {**config, 'data': data, 'diffusion': diffusion, **networks}, '')
    _check(experiment)
    return experiment


def _read_unet(
    section: Any, data: DataConfig, diffusion: DiffusionConfig, shared: Mapping[str, Any]
) -> UNetConfig:
    """The section has `class_conditional` where the network has the number of classes."""
    section = dict(_mapping(section, UNetConfig, 'unet'))
    conditional = read_value(bool, section.pop('class_conditional', False), 'unet.class_conditional')
    derived = {
        'num_classes': data.num_classes if conditional else None,
        'out_channels': data.image_channels * (2 if diffusion.learned_variance else 1),
    }
    return read_section(UNetConfig, section, 'unet', {**shared, **derived})


def read_section(cls: type, section: Any, where: str, derived: Mapping[str, Any] | None = None) -> Any:
    """A dataclass from a mapping of exactly its fields, those with defaults optional.

    Args:
        derived: fields that follow from other sections; naming one in this section is an error.
    """
    if isinstance(section, cls):
        return section
    section = _mapping(section, cls, where)
    derived = derived or {}
    prefix = f'{where}.' if where else ''
    own = [field.name for field in dataclasses.fields(cls) if field.name not in derived]
    for key in section:
        if key not in own:
            origin = 'it follows from other sections' if key in derived else f'known are {", ".join(own)}'
            raise UserError(f'config.{prefix}{key}: no such setting; {origin}')
    _require(section, cls, f'config.{where}' if where else 'config', derived)
    hints = typing.get_type_hints(cls)
    values = {key: read_value(hints[key], value, f'{prefix}{key}') for key, value in section.items()}
    return cls(**values, **derived)


def read_value(hint: Any, value: Any, where: str) -> Any:
    """A value of the annotated type. Whole numbers serve as floats and lists as tuples, nothing else."""
    if dataclasses.is_dataclass(hint):
        return read_section(hint, value, where)
    if isinstance(hint, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return read_value(next(option for option in options if option is not type(None)), value, where)
    if typing.get_origin(hint) is tuple and isinstance(value, (tuple, list)):
        inner = typing.get_args(hint)
        if inner[-1] is Ellipsis or len(inner) == len(value):
            return tuple(read_value(inner[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is hint:
        return value
    name = getattr(hint, '__name__', str(hint)) if typing.get_origin(hint) is None else str(hint)
    raise UserError(f'config.{where} is {value!r} ({type(value).__name__}); it must be of type {name}')


def _mapping(section: Any, cls: type, where: str) -> Mapping[str, Any]:
    if not isinstance(section, Mapping):
        raise UserError(
            f'config.{where} is {section!r}; it must be a section with the keys of {cls.__name__}'
        )
    return section


def _require(
    section: Mapping[str, Any], cls: type, where: str, derived: Mapping[str, Any] | None = None
) -> None:
    derived = derived or {}
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in section and field.name not in derived:
            raise UserError(f'{where}.{field.name} is missing; it has no default')


def _check(experiment: Experiment) -> None:
    _in_section('', check_data, experiment.data)
    _in_section('unet.', check_unet, experiment.unet)
    _in_section('classifier.', check_classifier, experiment.classifier)
    for stage in experiment.stages:
        one_of('stages', stage, STAGES)
    _check_diffusion(experiment.diffusion)
    _check_train('train', experiment.train)
    _check_train('train_classifier', experiment.train_classifier)
    _check_sample(experiment)


def _in_section(section: str, check: Callable[[Any], None], value: Any) -> None:
    """The rooms' own checks name a key; the user must also hear where in the config it stands."""
    try:
        check(value)
    except UserError as error:
        raise UserError(f'config.{section}{error}') from error


def one_of(where: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise UserError(f'config.{where} is {value!r}; it must be one of {", ".join(map(str, allowed))}')


def at_least(where: str, value: float, least: float) -> None:
    if not value >= least:
        raise UserError(f'config.{where} is {value}; it must be at least {least}')


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
    if sample.unguided and not sample.scale:
        raise UserError('config.sample.unguided is True and sample.scale 0; all samples are unguided then')
    if '/' in sample.name or sample.name.startswith('.') or sample.name == 'unguided':
        raise UserError(f'config.sample.name is {sample.name!r}; it must be a plain folder name')
