"""Where images come from: one file a kind of source."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from diffusion_jax.data import imagenet
from diffusion_jax.data.classes import listed
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.base import Source
from diffusion_jax.data.sources.kinds import KINDS, resolve
from diffusion_jax.errors import UserError


def make_source(config: DataConfig, split: str) -> Source:
    """The images of `split`, 'train' or 'test'; listed once in a process (`open_source.cache_clear`).

    Raises:
        UserError: they cannot be used, or have another number of classes than the config.
    """
    config = resolve(config)
    num_classes = config.num_classes if KINDS[config.name].numbers_classes else None
    source = open_source(dataclasses.replace(config, num_classes=num_classes), split)
    count = len(source.class_names)
    if config.num_classes not in (None, max(count, 1)):
        classes = (
            f'{count} classes ({listed(source.class_names)})' if count else 'no labels, which counts as 1'
        )
        raise UserError('config.data.num_classes', f'{config.num_classes}, but the images have {classes}')
    return source


@functools.lru_cache(maxsize=8)  # listing a million files takes seconds
def open_source(config: DataConfig, split: str) -> Source:
    """See `make_source`, which resolves the kind and checks the number of classes."""
    kind = KINDS[config.name]
    # A class keeps its number in the test images, also where some class has none there.
    of_training = split == 'train' or kind.names_classes
    return kind.opens(config, split, None if of_training else open_source(config, 'train').class_names)


def class_names(source: Source) -> tuple[str, ...]:
    """The names of the classes as people read them, in label order; () where images have no labels."""
    return imagenet.readable(source.class_names)


def describe(source: Source) -> dict[str, Any]:
    """What a training depends on in addition to its settings: which images there are, and their classes."""
    return {'classes': list(class_names(source)), 'count': len(source), 'identity': source.identity}
