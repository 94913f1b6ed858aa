"""A config in the flags of the authors' code."""

import re
from pathlib import Path
from typing import Any

from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import Experiment
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.weights.released import LEVELS

NUM_CLASSES = 1000  # of their networks
FILES = ('script_util', 'unet', 'gaussian_diffusion', 'respace', 'fp16_util', 'nn', 'resample', 'logger')


def check_checkout(path: Path) -> None:
    """UserError unless `path` is a checkout of the authors' code."""
    missing = [f'guided_diffusion/{name}.py' for name in FILES]
    missing = [name for name in missing if not (path / name).is_file()]
    if missing:
        remedy = 'give a checkout of https://github.com/openai/guided-diffusion'
        raise UserError('--against', f'{path} has no {missing[0]}', remedy)


def flags_of(experiment: Experiment, *, half: bool) -> dict[str, Any]:
    """The job of `authors` for a config: flags of their scripts, with which they build the same networks.

    Args:
        half: both networks in float16; otherwise as they published: the diffusion model in float16 except
            at 512×512 pixels, and the classifier in float32.

    Raises:
        UserError: their code cannot build these networks, or has no such sampler or training.
    """
    unet, classifier = experiment.unet, experiment.classifier
    _check_networks(experiment)
    recipe, training = _recipe(experiment), experiment.train
    process = _process(experiment)
    model = process | {
        'image_size': unet.image_size[0],
        'num_channels': unet.model_channels,
        'num_res_blocks': unet.num_res_blocks,
        'channel_mult': _channel_mult(unet),
        'num_heads': unet.num_heads,
        'num_head_channels': unet.num_head_channels or -1,
        'num_heads_upsample': unet.num_heads_upsample or -1,
        'attention_resolutions': _sides(unet),
        'dropout': unet.dropout,
        'class_cond': unet.num_classes is not None,
        'use_checkpoint': unet.remat,
        'use_scale_shift_norm': unet.scale_shift_norm,
        'resblock_updown': unet.resblock_updown,
        'use_fp16': half or unet.image_size[0] != 512,
        'use_new_attention_order': unet.qkv_order == 'new',
    }
    return {
        'model': model,
        'classifier': {
            'image_size': classifier.image_size[0],
            'classifier_use_fp16': half,
            'classifier_width': classifier.model_channels,
            'classifier_depth': classifier.num_res_blocks,
            'classifier_attention_resolutions': _sides(classifier),
            'classifier_use_scale_shift_norm': classifier.scale_shift_norm,
            'classifier_resblock_updown': classifier.resblock_updown,
            'classifier_pool': classifier.pool,
        },
        'respacing': recipe['respacing'],
        'ddim': recipe['ddim'],
        'scale': recipe['scale'],
        'training': {
            'learning_rate': training.learning_rate,
            'weight_decay': training.weight_decay,
            'ema_rates': list(training.ema_rates),
        },
    }


def _refuse(key: str, value: Any, allowed: Any) -> None:
    allowed = allowed if isinstance(allowed, tuple) else (allowed,)
    remedy = f"the authors' code has only {' or '.join(map(str, allowed))}"
    raise UserError(f'config.{key}', f'got {value!r}', remedy)


def _check_networks(experiment: Experiment) -> None:
    unet, classifier = experiment.unet, experiment.classifier
    if classifier is None:
        raise UserError('config.classifier', 'is missing', '--against compares guided sampling')
    if unet.low_res:
        raise UserError('config.data.low_res_size', 'is set', '--against compares no upsamplers')
    size = unet.image_size
    if size[0] != size[1] or size[0] not in LEVELS:
        _refuse('data.image_size', size, tuple((side, side) for side in LEVELS))
    if unet.image_channels != 3:
        _refuse('data.image_channels', unet.image_channels, 3)
    if experiment.data.num_classes != NUM_CLASSES:
        _refuse('data.num_classes', experiment.data.num_classes, NUM_CLASSES)
    if unet.label_dropout:
        _refuse('unet.label_dropout', unet.label_dropout, 0.0)
    for name, network in (('unet', unet), ('classifier', classifier)):
        if network.rescale_residual:
            _refuse(f'{name}.rescale_residual', True, False)
        if network.norm_groups != 32:
            _refuse(f'{name}.norm_groups', network.norm_groups, 32)
        if not network.conv_resample and not network.resblock_updown:
            _refuse(f'{name}.conv_resample', False, True)
    fixed = {
        'channel_mult': LEVELS[size[0]],
        'num_head_channels': 64,
        'qkv_order': 'legacy',
        'dropout': 0.0,
        'remat': False,
    }
    for key, value in fixed.items():
        if getattr(classifier, key) != value:
            _refuse(f'classifier.{key}', getattr(classifier, key), str(value))


def _channel_mult(unet: UNetConfig) -> str:
    if tuple(unet.channel_mult) == LEVELS[unet.image_size[0]]:
        return ''
    if any(mult != int(mult) for mult in unet.channel_mult):
        _refuse('unet.channel_mult', unet.channel_mult, 'whole numbers')
    return ','.join(str(int(mult)) for mult in unet.channel_mult)


def _sides(network: UNetConfig | ClassifierConfig) -> str:
    if not network.attention_resolutions:
        return str(2 * network.image_size[0])  # their flag cannot be empty; no level has this side
    return ','.join(map(str, network.attention_resolutions))


def _process(experiment: Experiment) -> dict[str, Any]:
    process = experiment.diffusion
    if process.prediction not in ('eps', 'x_0'):
        _refuse('diffusion.prediction', process.prediction, ('eps', 'x_0'))
    if process.variance not in ('fixed_large', 'learned_range'):
        _refuse('diffusion.variance', process.variance, ('fixed_large', 'learned_range'))
    if process.loss == 'kl':
        _refuse('diffusion.loss', process.loss, ('mse', 'rescaled_mse', 'rescaled_kl'))
    return {
        'learn_sigma': process.learned_variance,
        'diffusion_steps': process.num_timesteps,
        'noise_schedule': process.schedule,
        'use_kl': process.loss == 'rescaled_kl',
        'predict_xstart': process.prediction == 'x_0',
        'rescale_timesteps': process.rescale_timesteps,
        'rescale_learned_sigmas': process.loss == 'rescaled_mse',
    }


def _recipe(experiment: Experiment) -> dict[str, Any]:
    recipe = experiment.sample.as_recipe()
    if [type(guidance) for guidance in recipe.guidance] != [ClassifierGuidance]:
        _refuse('sample.guidance', experiment.sample.guidance, 'classifier')
    if type(recipe.sampler) not in (DDPM, DDIM):
        _refuse('sample.sampler', experiment.sample.sampler, ('ddpm', 'ddim'))
    if not re.fullmatch(r'(ddim)?\d+|[\d,]*', recipe.respacing):
        _refuse('sample.respacing', recipe.respacing, ('250', 'ddim25', '90,60,60,20,20'))
    if not recipe.clip:
        _refuse('sample.clip', False, True)
    return {
        'respacing': recipe.respacing,
        'ddim': type(recipe.sampler) is DDIM,
        'scale': float(recipe.guidance[0].scale),
    }
