"""What the paper's experiments share: the sections of configs/imagenet*.py, lsun_*.py and upsample_*.py.

Architectures are those of the released models (weights/released.py), training settings those of tables 11 to
13 and the authors' README; everything that is not named here has the default of its dataclass, which is the
paper's: Adam with β = .9 and .999, a constant learning rate of 1e-4, no weight decay, an average of .9999.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from diffusion_jax.models import UNetConfig
from diffusion_jax.models.config import DERIVED
from diffusion_jax.weights.released import RELEASED

Section = dict[str, Any]

HALF = {'dtype': 'bfloat16'}  # in the place of the authors' float16


def imagenet(side: int, **changes: Any) -> Section:
    """ImageNet as a folder: imagenet/train/<wnid>/*.JPEG and imagenet/val/<wnid>/*.JPEG."""
    return {
        'name': 'folder',
        'path': 'imagenet',
        'test_split': 'val',
        'num_classes': 1000,
        'image_size': (side, side),
        'image_channels': 3,
        'num_workers': 16,
    } | changes


def lsun(category: str) -> Section:
    """One category of LSUN, exported as image files to lsun/<category>; its images have no labels."""
    return {
        'name': 'folder',
        'path': f'lsun/{category}',
        'train_split': '',
        'labels': 'none',
        'num_classes': 1,
        'image_size': (256, 256),
        'image_channels': 3,
        'num_workers': 16,
    }


def diffusion(name: str) -> Section:
    """The process of a released diffusion model."""
    return dataclasses.asdict(RELEASED[name].diffusion)


def network(name: str) -> Section:
    """A released network as the section `unet` or `classifier`."""
    config = RELEASED[name].network
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in DERIVED}
    if isinstance(config, UNetConfig):
        settings['class_conditional'] = config.num_classes is not None
    return settings


def unet(name: str, **changes: Any) -> Section:
    """The network of a released diffusion model or upsampler."""
    return network(name) | HALF | changes


def classifier(name: str) -> Section:
    """The network of a released classifier. The authors guide with it in float32; on digits, bfloat16
    changed samples less here than in the diffusion model (experiments/results/precision.md)."""
    return network(name) | HALF


def diffusion_training(num_steps: int, **changes: Any) -> Section:
    """Tables 11 and 13: a diffusion model, or an upsampler."""
    return {
        'num_steps': num_steps,
        'batch_size': 256,
        'flip': True,
        'log_every': 100,
    } | changes


def classifier_training(num_steps: int, **changes: Any) -> Section:
    """Table 12: a classifier, on random crops, with a learning rate that falls to zero."""
    return {
        'num_steps': num_steps,
        'batch_size': 256,
        'learning_rate': 3e-4,
        'learning_rate_schedule': 'linear',
        'weight_decay': 0.05,
        'ema_rates': (),
        'flip': True,
        'random_crop': True,
        'log_every': 100,
        'validate_every': 5000,
    } | changes


def sampling(name: str, **changes: Any) -> Section:
    """Table 14: 50,000 images with ancestral sampling, as the paper's numbers are computed from them."""
    paper = dict(RELEASED[name].recipes)['paper']
    return {
        'sampler': 'ddpm',
        'respacing': paper.respacing,
        'scale': sum(guidance.scale for guidance in paper.guidance),
        'num_samples': 50_000,
        'batch_size': 32,
        'labels': 'random',
    } | changes


def evaluation(reference: str) -> Section:
    """Against one of the authors' reference files; the weights of Inception are those that
    `diffusion-jax convert-inception` writes."""
    return {'inception': 'inception.safetensors', 'reference': f'VIRTUAL_{reference}.npz'}
