"""Sections of configs that the paper's experiments share: configs/imagenet*.py, lsun_*.py, upsample_*.py.

Architectures are those of the released models (weights/released.py), training settings those of tables 11 to
13 and the authors' README. Other settings have their defaults, which are the paper's: Adam with β = .9 and
.999, a constant learning rate of 1e-4, no weight decay, an average of rate .9999.
"""

import dataclasses
from typing import Any

from diffusion_jax.diffusion.guidance import innermost
from diffusion_jax.models import UNetConfig
from diffusion_jax.models.config import DERIVED
from diffusion_jax.weights.released import RELEASED

Section = dict[str, Any]


def imagenet(side: int, **changes: Any) -> Section:
    """ImageNet, by default as a folder: imagenet/train/<wnid>/*.JPEG and imagenet/val/<wnid>/*.JPEG."""
    return {
        'name': 'auto',
        'path': 'imagenet',
        'test_split': 'val',
        'num_classes': 1000,
        'image_size': (side, side),
        'image_channels': 3,
        'num_workers': 16,
    } | changes


def lsun(category: str) -> Section:
    """One category of LSUN without labels: its LMDB, or image files, at lsun/<category>."""
    splits = {'train_split': '', 'test_split': 'test'}
    return imagenet(256, path=f'lsun/{category}', labels='none', num_classes=1, **splits)


def diffusion(name: str) -> Section:
    """The process of a released diffusion model."""
    return dataclasses.asdict(RELEASED[name].diffusion)


def network(name: str, **changes: Any) -> Section:
    """A released network as the section `unet` or `classifier`, in bfloat16 instead of the authors' float16.

    Their classifiers are in float32. On digits, bfloat16 changed samples less in the classifier than in the
    diffusion model (experiments/results/precision.md).
    """
    config = RELEASED[name].network
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in DERIVED}
    if isinstance(config, UNetConfig):
        settings['class_conditional'] = config.num_classes is not None
    return settings | {'dtype': 'bfloat16'} | changes


def diffusion_training(num_steps: int, **changes: Any) -> Section:
    """Tables 11 and 13: a diffusion model, or an upsampler."""
    return {'num_steps': num_steps, 'batch_size': 256, 'flip': True, 'log_every': 100} | changes


def classifier_training(num_steps: int, **changes: Any) -> Section:
    """Table 12: a classifier on random crops, with a learning rate that decays to zero."""
    optimizer = {'learning_rate': 3e-4, 'learning_rate_schedule': 'linear', 'weight_decay': 0.05}
    settings = optimizer | {'ema_rates': (), 'random_crop': True, 'validate_every': 5000}
    return diffusion_training(num_steps, **settings | changes)


def sampling(name: str, **changes: Any) -> Section:
    """Table 14: 50,000 images by ancestral sampling, on which the paper's numbers are computed."""
    paper = dict(RELEASED[name].recipes)['paper']
    section = {'num_samples': 50_000, 'batch_size': 32, 'labels': 'random'}
    if 'recipe' not in changes:
        scale = sum(innermost(guidance).scale for guidance in paper.guidance)
        section |= {'sampler': 'ddpm', 'respacing': paper.respacing, 'scale': scale}
    return section | changes


def evaluation(reference: str) -> Section:
    """The authors' reference file, and the weights that `diffusion-jax convert-inception` writes."""
    return {'inception': 'inception.safetensors', 'reference': f'VIRTUAL_{reference}.npz'}
