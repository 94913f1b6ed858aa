"""An experiment: what its config file says, as frozen dataclasses, with every check of a setting.

Each section of a config becomes the dataclass that stands beside what it configures. What a network shares
with its data (image size, channels, classes) is filled in here, so that no config says it twice.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.checks import between, in_section, one_of
from diffusion_jax.data import imagenet
from diffusion_jax.data.classes import label_of
from diffusion_jax.data.config import DataConfig, check_data
from diffusion_jax.data.sources import class_names, make_source
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
from diffusion_jax.settings import FilePath, nearest, not_none, read_section, types_of
from diffusion_jax.sharding import MeshConfig
from diffusion_jax.training.config import TrainConfig, check_train

STAGES = ('train', 'train_classifier', 'sample', 'evaluate', 'likelihood')


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Networks to use instead of training, or to start training from where its stage is named.

    Attributes:
        diffusion: a folder of training, such as runs/digits/diffusion, or a file of weights; '' is none.
        classifier: the same for the classifier.
    """

    diffusion: FilePath = ''
    classifier: FilePath = ''


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A complete experiment.

    Attributes:
        stages: what runs, in this order, unless --stage names other stages.
        data: which images a run reads.
        diffusion: the process, and what the network predicts.
        unet: the diffusion model.
        train: how the diffusion model is trained.
        classifier: the network that guides, if any.
        train_classifier: how the classifier is trained, if it is.
        sample: which images are sampled, and how.
        evaluate: how samples are compared with real images.
        likelihood: of which images the variational bound is computed.
        pretrained: networks to use instead of training.
        mesh: how work is split over devices.
        seed: of training: initial parameters, order of the images, noise.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetSection(UNetConfig):
    """What a config says of the UNet.

    Attributes:
        class_conditional: the diffusion model itself knows the classes; otherwise only a classifier does.
    """

    class_conditional: bool = False

    def network(self) -> UNetConfig:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(UNetConfig)}
        return UNetConfig(**values | ({} if self.class_conditional else {'num_classes': None}))


NETWORKS = ('unet', 'classifier')
# What these share with the data.
SHARED = ('image_size', 'image_channels', 'num_classes')
# The sections of a config, and the dataclass that says what can be set in each.
SECTIONS: dict[str, type] = {
    name: not_none(hint)
    for name, hint in types_of(Experiment).items()
    if dataclasses.is_dataclass(not_none(hint))
} | {'unet': UNetSection}
MAY_BE_ABSENT = ('classifier', 'train_classifier')


@functools.cache
def all_settings() -> dict[str, Any]:
    """Every setting of a config by its dotted name, with its type: 'seed' → int, 'train.num_steps' → int."""
    found = {name: hint for name, hint in types_of(Experiment).items() if name not in SECTIONS}
    for section, cls in SECTIONS.items():
        derived = DERIVED if section in NETWORKS else ()
        found |= {f'{section}.{key}': hint for key, hint in types_of(cls).items() if key not in derived}
    return found


def no_such_setting(name: str) -> UserError:
    """The error for a dotted name that is no setting, with those that were probably meant."""
    section, _, key = name.rpartition('.')
    if section in NETWORKS and key in DERIVED:
        return UserError(f'config.{name}: no such setting; it follows from the sections data and diffusion')
    meant = [f'config.{each}' for each in nearest(name, [*all_settings(), *SECTIONS])]
    hint = f'did you mean {" or ".join(meant)}?' if meant else '`diffusion-jax show-config NAME` lists all'
    return UserError(f'config.{name}: no such setting; {hint}')


def with_defaults(*, stages: tuple[str, ...], seed: int = 0, **sections: Mapping[str, Any]) -> ConfigDict:
    """A config file's experiment with every setting in it.

    What a section does not name has its dataclass's default; a section that may be absent stays so.
    No value is checked before `read_experiment`.

    Raises:
        UserError: there is no such section or setting.
    """
    for name, section in sections.items():
        if name not in SECTIONS:
            raise no_such_setting(name)
        if section is None and name in MAY_BE_ABSENT:
            continue
        if not isinstance(section, (Mapping, ConfigDict)):
            raise UserError(f'config.{name} is {section!r}; it must be a section: {name}=dict(…)')
        for key in section:
            if f'{name}.{key}' not in all_settings():
                raise no_such_setting(f'{name}.{key}')
    filled = {
        name: _defaults(name) | dict(sections.get(name, {}))
        for name in SECTIONS
        if sections.get(name) is not None or name not in MAY_BE_ABSENT
    }
    return ConfigDict({'stages': stages, 'seed': seed, **filled})


def _defaults(section: str) -> dict[str, Any]:
    """The defaults of the settings that have one."""
    return {
        field.name: field.default
        for field in dataclasses.fields(SECTIONS[section])
        if f'{section}.{field.name}' in all_settings() and field.default is not dataclasses.MISSING
    }


def read_experiment(config: Mapping[str, Any], stored_classes: Sequence[str] = ()) -> Experiment:
    """The config, as a plain nested dict, checked and complete.

    Where config.sample.ema_rate is not set it becomes the slowest of config.train.ema_rates; it stays None
    only where the network is a pretrained folder of training, whose averages may be others.

    Args:
        stored_classes: the names of the classes of a stored network. Without them the images are listed where
            the config does not give the number of classes, or names some.

    Raises:
        UserError: something cannot work; the message names the key, its value and what is allowed.
    """
    data, sample = _with_classes(
        read_section(DataConfig, config.get('data'), 'config.data'),
        read_section(SampleConfig, config.get('sample', {}), 'config.sample'),
        stored_classes,
    )
    diffusion = read_section(DiffusionConfig, config.get('diffusion'), 'config.diffusion')
    shared = {name: getattr(data, name) for name in SHARED}
    unet_derived = shared | {
        'out_channels': data.image_channels * (2 if diffusion.learned_variance else 1),
        'low_res': data.low_res_size is not None,
    }
    unet = read_section(UNetSection, config.get('unet', {}), 'config.unet', unet_derived)
    networks = {'unet': unet.network()}
    if 'classifier' in config:
        networks['classifier'] = read_section(
            ClassifierConfig, config['classifier'], 'config.classifier', shared
        )
    experiment = read_section(
        Experiment, {**config, 'data': data, 'diffusion': diffusion, 'sample': sample, **networks}, 'config'
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


def read_without_images(config: Mapping[str, Any]) -> Experiment:
    """See `read_experiment`. Does not list images; assumes two classes where these would say the number."""
    classes = config.get('sample', {}).get('classes', ())
    named = [name for name in classes if isinstance(name, str)]
    return read_experiment(config, stored_classes=(*named, '', ''))


def _with_classes(
    data: DataConfig, sample: SampleConfig, stored_classes: Sequence[str]
) -> tuple[DataConfig, SampleConfig]:
    """The number of classes where it is not given, and labels in place of the names of classes."""
    named = [name for name in sample.classes if isinstance(name, str)]
    if data.num_classes is not None and not named and not (sample.classes and stored_classes):
        return data, sample
    in_section('data', check_data, data)
    names = stored_classes or _classes_of_images(data)
    known = imagenet.synonyms(names)
    try:  # a number that is the name of a class, such as a folder called 1, is this name
        classes = tuple(
            label_of(str(each), known) if isinstance(each, str) or str(each) in names else each
            for each in sample.classes
        )
    except UserError as error:
        raise UserError(f'config.sample.classes: {error}') from error
    num_classes = max(len(names), 1) if data.num_classes is None else data.num_classes
    return dataclasses.replace(data, num_classes=num_classes), dataclasses.replace(sample, classes=classes)


def _classes_of_images(data: DataConfig) -> tuple[str, ...]:
    if data.labels == 'none':
        return ()
    try:
        return class_names(make_source(data, 'train'))
    except UserError as error:
        raise UserError(f'{error} (config.data.num_classes is not set: the images say what it is)') from error


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
    """UserError unless the average is trained. A pretrained network's are checked when it is opened."""
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
        if experiment.data.num_classes == 1 and scale > 0:
            raise UserError(
                f'config.sample.scale is {scale:g}; guidance needs at least two classes and '
                'config.data.num_classes is 1, set config.sample.scale=0'
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
