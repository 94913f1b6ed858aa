"""An experiment as frozen dataclasses, each defined where it is used, with the checks of all settings."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

from diffusion_jax.checks import between, in_section, one_of
from diffusion_jax.data.config import DataConfig, check_data
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.schedules import SCHEDULES, schedule_of
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.config import EvaluateConfig, check_evaluate
from diffusion_jax.generation.config import (
    BaseConfig,
    LikelihoodConfig,
    SampleConfig,
    check_base,
    check_likelihood,
    check_sample,
)
from diffusion_jax.generation.guides import check_network, with_class_weights
from diffusion_jax.generation.options import check_respacing, check_timesteps
from diffusion_jax.models import ClassifierConfig, UNetConfig, check_classifier, check_unet
from diffusion_jax.settings import FilePath
from diffusion_jax.sharding import MeshConfig
from diffusion_jax.stored_networks import CLASSIFIER, DIFFUSION, TRAINED_BY
from diffusion_jax.training.config import TrainConfig, check_train

STAGES = (*TRAINED_BY.values(), 'sample', 'evaluate', 'likelihood')


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Networks to use instead of training, or to start training from if its stage is named.

    Attributes:
        diffusion: a folder of training such as runs/digits/diffusion, or a file of weights; '' is none.
        classifier: the same for the classifier.
    """

    diffusion: FilePath = ''
    classifier: FilePath = ''


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A complete experiment.

    Attributes:
        stages: the stages to run, in this order, unless --stage names others.
        data: which images a run reads.
        diffusion: the process, and what the network predicts.
        unet: the diffusion model.
        train: how the diffusion model is trained.
        classifier: the network for guidance; None for experiments without one.
        train_classifier: how the classifier is trained, if it is.
        sample: which images are sampled, and how.
        base: the model that samples the images which an upsampler enlarges, if they are not given.
        evaluate: how samples are compared with real images.
        likelihood: for which images the variational bound is computed.
        pretrained: networks to use instead of training them.
        mesh: how work is split over devices.
        seed: of training: initial parameters, order of the images, noise.
        deterministic: makes a run that was killed and resumed on GPUs end with the same bits as one that was
            not, at some cost in speed (docs/gpu.md). On CPUs it always does.
    """

    stages: tuple[str, ...]
    data: DataConfig
    diffusion: DiffusionConfig
    unet: UNetConfig
    train: TrainConfig
    classifier: ClassifierConfig | None = None
    train_classifier: TrainConfig | None = None
    sample: SampleConfig = SampleConfig()
    base: BaseConfig = BaseConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    likelihood: LikelihoodConfig = LikelihoodConfig()
    pretrained: Pretrained = Pretrained()
    mesh: MeshConfig = MeshConfig()
    seed: int = 0
    deterministic: bool = False

    @property
    def networks(self) -> dict[str, Any]:
        return {DIFFUSION: self.unet, CLASSIFIER: self.classifier}


def check_stages(experiment: Experiment, stages: Collection[str], key: str) -> None:
    """Raises UserError unless the experiment has all of the stages; `key` is the setting or flag."""
    for stage in stages:
        one_of(key, stage, STAGES)
    for section in ('classifier', 'train_classifier'):
        if 'train_classifier' in stages and getattr(experiment, section) is None:
            problem = f'has train_classifier, but the config has no section {section}'
            raise UserError(key, problem, 'add it or omit the stage')


def check_experiment(experiment: Experiment) -> None:
    """Raises UserError for a setting that cannot work."""
    sample, diffusion = experiment.sample, experiment.diffusion
    check_stages(experiment, experiment.stages, 'config.stages')
    between('config.seed', experiment.seed, 0, below=2**32)
    for section, check in CHECKS.items():
        if getattr(experiment, section) is not None:
            in_section(section, check, getattr(experiment, section))
    in_section('sample', check_sample, sample, experiment.data.num_classes)
    in_section('sample', check_respacing, diffusion, sample.respacing, sample.timesteps)
    in_section('sample', check_network, experiment.unet, sample.as_recipe())
    in_section('likelihood', check_timesteps, diffusion, experiment.likelihood.respacing)
    _check_upsampler(experiment)
    if experiment.classifier is None:
        key = 'scale' if sample.guidance == 'classifier' else 'guidance'
        problem = 'needs a classifier, but the config has no section classifier'
        if sample.guided:
            raise UserError(f'config.sample.{key}', problem, "add one, or set scale to 0 or guidance to ''")
        if experiment.pretrained.classifier:
            raise UserError('config.pretrained.classifier', problem, 'add one that describes it')
    if bool(sample.weak) != ('weak' in sample.as_recipe().needs):
        problem = 'is set, but only the guidance auto uses it' if sample.weak else 'is not set; auto needs it'
        raise UserError('config.sample.weak', problem, 'give auto and a second diffusion model, or neither')
    in_section('sample', with_class_weights, sample.as_recipe(), 1, experiment.classifier)
    averages = {'ema_rate': sample.ema_rate, 'classifier_ema_rate': sample.classifier_ema_rate}
    for (name, stage), (key, rate) in zip(TRAINED_BY.items(), averages.items(), strict=True):
        between(f'config.sample.{key}', rate or 0.0, 0, below=1)
        training = getattr(experiment, stage)
        rates = training.ema_rates if training else ()
        # The averages of a pretrained network are checked when it is opened.
        if rate and rate not in rates and not getattr(experiment.pretrained, name):
            remedy = f'give a rate of config.{stage}.ema_rates, {rates}, or 0 for the parameters themselves'
            raise UserError(f'config.sample.{key}', f'got {rate}, which is not trained', remedy)


def _check_upsampler(experiment: Experiment) -> None:
    """UserError for settings of upsamplers in an experiment without one, or two sources of base images."""
    sample, low_res = experiment.sample, experiment.unet.low_res
    given = {
        'sample.low_res_noise': sample.low_res_noise,
        'base.diffusion': experiment.base.diffusion,
        'train.low_res_noise': experiment.train.low_res_noise,
    }
    for key, value in given.items():
        if value and not low_res:
            problem = f'got {value!r}, but the diffusion model is no upsampler'
            raise UserError(f'config.{key}', problem, 'leave it out, or set config.data.low_res_size')
    if experiment.train_classifier and experiment.train_classifier.low_res_noise:
        problem = f'got {experiment.train_classifier.low_res_noise}, but a classifier enlarges no images'
        raise UserError('config.train_classifier.low_res_noise', problem, 'leave it out')
    if experiment.base.diffusion and sample.base_samples:
        problem = f'got {experiment.base.diffusion}, and config.sample.base_samples={sample.base_samples}'
        raise UserError('config.base.diffusion', problem, 'give one: a base model, or images')


def _check_diffusion(diffusion: DiffusionConfig) -> None:
    one_of('schedule', diffusion.schedule, SCHEDULES)
    one_of('prediction', diffusion.prediction, ('eps', 'x_0', 'v', 'previous_x', 'edm'))
    one_of('variance', diffusion.variance, ('fixed_small', 'fixed_large', 'learned', 'learned_range'))
    one_of('loss', diffusion.loss, ('mse', 'rescaled_mse', 'kl', 'rescaled_kl'))
    between('num_timesteps', diffusion.num_timesteps, 1)
    if diffusion.schedule == 'edm' and diffusion.rescale_timesteps:
        problem = "got True, but with the schedule 'edm' the network sees 250·log σ"
        raise UserError('rescale_timesteps', problem, 'leave it out')
    try:
        schedule_of(diffusion)
    except ValueError as error:
        raise UserError('schedule', f'{diffusion.schedule!r} cannot be computed: {error}') from error


# What can be checked of a section alone.
CHECKS: dict[str, Callable[[Any], None]] = {
    'data': check_data,
    'diffusion': _check_diffusion,
    'unet': check_unet,
    'train': check_train,
    'classifier': check_classifier,
    'train_classifier': check_train,
    'evaluate': check_evaluate,
    'base': check_base,
    'likelihood': check_likelihood,
}
