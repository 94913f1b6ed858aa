"""An experiment as frozen dataclasses, each defined where it is used, with the checks of all settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

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
    check_sample,
)
from diffusion_jax.generation.options import check_respacing, check_timesteps
from diffusion_jax.generation.requests import check_null_class
from diffusion_jax.models import ClassifierConfig, UNetConfig, check_classifier, check_unet
from diffusion_jax.settings import FilePath
from diffusion_jax.sharding import MeshConfig
from diffusion_jax.stored_networks import CLASSIFIER, DIFFUSION, TRAINED_BY
from diffusion_jax.training.config import TrainConfig, check_train

STAGES = (*TRAINED_BY.values(), 'sample', 'evaluate', 'likelihood')


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
        deterministic: on GPUs, a run that was killed and resumed ends with the same bits as one that was not,
            at some cost in speed (docs/gpu.md). On CPUs it always does.
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
    deterministic: bool = False

    @property
    def networks(self) -> dict[str, UNetConfig | ClassifierConfig | None]:
        return {DIFFUSION: self.unet, CLASSIFIER: self.classifier}


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


def check_experiment(experiment: Experiment) -> None:
    """UserError for a setting that cannot work; the message names it, its value and what is allowed."""
    sample, data = experiment.sample, experiment.data
    check_stages(experiment, experiment.stages, 'config.stages')
    between('config.seed', experiment.seed, 0, below=2**32)
    in_section('data', check_data, data)
    in_section('diffusion', _check_diffusion, experiment.diffusion)
    in_section('unet', check_unet, experiment.unet)
    in_section('train', check_train, experiment.train)
    in_section('sample', check_sample, sample, data.num_classes)
    _check_guidance(experiment)
    in_section('sample', check_respacing, experiment.diffusion, sample.respacing, sample.timesteps)
    if 'null' in sample.as_recipe().needs:
        in_section('sample', check_null_class, experiment.unet)
    in_section('evaluate', check_evaluate, experiment.evaluate)
    in_section('likelihood', check_likelihood, experiment.likelihood)
    in_section('likelihood', check_timesteps, experiment.diffusion, experiment.likelihood.respacing)
    _check_average('ema_rate', sample.ema_rate, 'train', experiment, experiment.pretrained.diffusion)
    _check_average(
        'classifier_ema_rate',
        sample.classifier_ema_rate,
        'train_classifier',
        experiment,
        experiment.pretrained.classifier,
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
    guided, how, off = experiment.sample.guided, f'scale is {scale:g}', 'scale=0'
    if experiment.sample.guidance != 'classifier':
        how, off = f'guidance is {experiment.sample.guidance!r}', "guidance=''"
    if experiment.classifier is not None:
        in_section('classifier', check_classifier, experiment.classifier)
        if experiment.data.num_classes == 1 and guided:
            others = [stage for stage in experiment.stages if stage != 'train_classifier']
            stages = f'--stage={",".join(others)} ' if others != list(experiment.stages) else ''
            raise UserError(
                f'config.sample.{how}; guidance and its classifier need at least two classes '
                f'and config.data.num_classes is 1; give {stages}--config.sample.{off}'
            )
    elif guided:
        raise UserError(
            f'config.sample.{how}; the config has no section classifier that could guide, add one or set '
            f'config.sample.{off}'
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
