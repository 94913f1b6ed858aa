"""An experiment: what its config file says, as frozen dataclasses, with every check of a setting.

Each section of a config becomes the dataclass that stands beside what it configures. What a network shares
with its data (image size, channels, classes) is filled in here, so that no config says it twice.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from diffusion_jax.checks import between, in_section, one_of
from diffusion_jax.data.config import DataConfig, check_data
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.schedules import schedule_of
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.config import EvaluateConfig, check_evaluate
from diffusion_jax.generation.config import (
    LikelihoodConfig,
    SampleConfig,
    check_likelihood,
    check_respacing,
    check_sample,
)
from diffusion_jax.models import ClassifierConfig, UNetConfig, check_classifier, check_unet
from diffusion_jax.models.config import DERIVED
from diffusion_jax.settings import not_none, read_section, read_value
from diffusion_jax.sharding import MeshConfig
from diffusion_jax.training.config import TrainConfig, check_train

STAGES = ('train', 'train_classifier', 'sample', 'evaluate', 'likelihood')


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Networks to use instead of training, or to start training from where its stage is named; '' is none.

    Each is a folder of training, such as runs/digits/diffusion, or a file of weights.
    """

    diffusion: str = ''
    classifier: str = ''


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A whole experiment. `stages` are those that run when none is named on the command line.

    Without the section `classifier` there is none; without `train_classifier` it is not trained here.
    """

    stages: tuple[str, ...]
    data: DataConfig
    diffusion: DiffusionConfig
    unet: UNetConfig
    train: TrainConfig
    classifier: ClassifierConfig | None = None
    train_classifier: TrainConfig | None = None
    sample: SampleConfig = SampleConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    likelihood: LikelihoodConfig = LikelihoodConfig()
    pretrained: Pretrained = Pretrained()
    mesh: MeshConfig = MeshConfig()
    seed: int = 0


NETWORKS = ('unet', 'classifier')
# What these share with the data.
SHARED = ('image_size', 'image_channels', 'num_classes')


def with_defaults(*, stages: tuple[str, ...], seed: int = 0, **sections: Mapping[str, Any]) -> ConfigDict:
    """A config file's experiment with every setting in it, so that the command line can change each of them.

    What a section does not name has its dataclass's default; a section that may be absent stays so.
    Nothing is checked before `read_experiment`.
    """
    filled = {}
    for name, hint in typing.get_type_hints(Experiment).items():
        cls = not_none(hint)
        may_be_absent = cls is not hint
        if dataclasses.is_dataclass(cls) and (name in sections or not may_be_absent):
            filled[name] = _fill(cls, sections.pop(name, {}), DERIVED if name in NETWORKS else ())
    filled['unet'] = {'class_conditional': False} | filled['unet']
    return ConfigDict({'stages': stages, 'seed': seed, **filled, **sections})


def _fill(cls: type, given: Mapping[str, Any], derived: Collection[str]) -> dict[str, Any]:
    """What a section gives, and the defaults of all its other settings but the derived ones."""
    hints = typing.get_type_hints(cls)
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.default is not dataclasses.MISSING and field.name not in derived
    }
    return {
        name: _placeholder(hints[name]) if value is None and name in hints else value
        for name, value in {**defaults, **given}.items()
    }


def _placeholder(hint: Any) -> Any:
    """A None that the command line can change: a ConfigDict must know what else it may be."""
    hint = not_none(hint)
    return config_dict.placeholder(typing.get_origin(hint) or hint)


def read_experiment(config: Mapping[str, Any]) -> Experiment:
    """The config, as a plain nested dict, checked and complete.

    Where config.sample.ema_rate is not set it becomes the slowest of config.train.ema_rates; it stays None
    only where the network is a pretrained folder of training, whose averages may be others.

    Raises:
        UserError: something cannot work; the message names the key, its value and what is allowed.
    """
    data = read_section(DataConfig, config.get('data'), 'config.data')
    diffusion = read_section(DiffusionConfig, config.get('diffusion'), 'config.diffusion')
    shared = {name: getattr(data, name) for name in SHARED}
    unet = dict(config.get('unet', {}))
    conditional = read_value(bool, unet.pop('class_conditional', False), 'config.unet.class_conditional')
    unet_derived = shared | {
        'num_classes': data.num_classes if conditional else None,
        'out_channels': data.image_channels * (2 if diffusion.learned_variance else 1),
        'low_res': data.low_res_size is not None,
    }
    networks = {'unet': read_section(UNetConfig, unet, 'config.unet', unet_derived)}
    if 'classifier' in config:
        networks['classifier'] = read_section(
            ClassifierConfig, config['classifier'], 'config.classifier', shared
        )
    experiment = read_section(
        Experiment, {**config, 'data': data, 'diffusion': diffusion, **networks}, 'config'
    )
    _check(experiment)
    pretrained = experiment.pretrained.diffusion
    if experiment.sample.ema_rate is not None or (pretrained and Path(pretrained).is_dir()):
        return experiment
    return with_slowest_average(experiment, experiment.train.ema_rates)


def with_slowest_average(experiment: Experiment, ema_rates: Collection[float]) -> Experiment:
    """The experiment whose samples are drawn with the average of the largest of these rates; without any,
    with the parameters themselves."""
    sample = dataclasses.replace(experiment.sample, ema_rate=max(ema_rates, default=0.0))
    return dataclasses.replace(experiment, sample=sample)


def check_stages(experiment: Experiment, stages: Collection[str], key: str) -> None:
    """UserError, which names the `key` that gives the stages, unless the experiment has each of them."""
    for stage in stages:
        one_of(key, stage, STAGES)
    for section in ('classifier', 'train_classifier'):
        if 'train_classifier' in stages and getattr(experiment, section) is None:
            raise UserError(
                f'{key} has train_classifier; the config has no section {section}, add it or omit the stage'
            )


def _check(experiment: Experiment) -> None:
    sample, data = experiment.sample, experiment.data
    check_stages(experiment, experiment.stages, 'config.stages')
    between('config.seed', experiment.seed, 0, below=2**32)
    in_section('data', check_data, data)
    in_section('diffusion', _check_diffusion, experiment.diffusion)
    in_section('unet', check_unet, experiment.unet)
    in_section('train', check_train, experiment.train)
    _check_guidance(experiment)
    in_section('sample', check_sample, sample, data.num_classes)
    in_section('sample', check_respacing, experiment.diffusion, sample.respacing)
    in_section('evaluate', check_evaluate, experiment.evaluate)
    in_section('likelihood', check_likelihood, experiment.likelihood)
    in_section('likelihood', check_respacing, experiment.diffusion, experiment.likelihood.respacing)
    _check_average('ema_rate', sample.ema_rate, 'train', experiment, experiment.pretrained.diffusion)
    _check_average(
        'classifier_ema_rate',
        sample.classifier_ema_rate,
        'train_classifier',
        experiment,
        experiment.pretrained.classifier,
    )
    if experiment.evaluate.judge and data.name != 'digits':
        raise UserError(
            f'config.evaluate.judge is {experiment.evaluate.judge!r}; it knows only the images of '
            f"config.data.name='digits', which is {data.name!r}; set it to ''"
        )


def _check_average(
    key: str, rate: float | None, section: str, experiment: Experiment, pretrained: str
) -> None:
    """An average that samples are drawn with must be trained; what a pretrained network has is seen later."""
    if rate is not None:
        between(f'config.sample.{key}', rate, 0, below=1)
    training = getattr(experiment, section)
    rates = training.ema_rates if training else ()
    if rate and rate not in rates and not pretrained:
        has = f'has {", ".join(map(str, rates))}' if rates else 'has none'
        raise UserError(
            f'config.sample.{key} is {rate}; config.{section}.ema_rates {has}; give one of these, or 0 for '
            'the parameters themselves'
        )


def _check_guidance(experiment: Experiment) -> None:
    """What is asked to guide must be there, and must have something to tell."""
    scale, pretrained = experiment.sample.scale, experiment.pretrained.classifier
    if experiment.classifier is not None:
        in_section('classifier', check_classifier, experiment.classifier)
        if experiment.data.num_classes == 1:
            raise UserError(
                'config.data.num_classes is 1; a classifier tells at least two classes apart, remove the '
                'sections classifier and train_classifier'
            )
    elif scale > 0:
        raise UserError(
            f'config.sample.scale is {scale:g}; the config has no section classifier that could guide, '
            'add one or set config.sample.scale=0'
        )
    elif pretrained:
        raise UserError(
            f'config.pretrained.classifier is {pretrained!r}; the config has no section classifier that '
            'describes it, add one'
        )
    if experiment.train_classifier is not None:
        in_section('train_classifier', check_train, experiment.train_classifier)


def _check_diffusion(diffusion: DiffusionConfig) -> None:
    one_of('schedule', diffusion.schedule, ('linear', 'cosine'))
    one_of('prediction', diffusion.prediction, ('eps', 'x_0', 'v', 'previous_x'))
    one_of('variance', diffusion.variance, ('fixed_small', 'fixed_large', 'learned', 'learned_range'))
    one_of('loss', diffusion.loss, ('mse', 'rescaled_mse', 'kl', 'rescaled_kl'))
    between('num_timesteps', diffusion.num_timesteps, 1)
    try:
        schedule_of(diffusion)
    except ValueError as error:
        raise UserError(f'schedule is {diffusion.schedule!r}: {error}') from error
