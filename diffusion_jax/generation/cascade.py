"""Two stages: a base model samples small images, and an upsampler enlarges them (2105.05233, section 5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from diffusion_jax.data.classes import check_same_classes
from diffusion_jax.errors import UserError
from diffusion_jax.generation.arguments import whole_number
from diffusion_jax.generation.labels import Labels, class_numbers
from diffusion_jax.generation.sampling import Samples
from diffusion_jax.images import Size
from diffusion_jax.models import UNetConfig

if TYPE_CHECKING:
    from diffusion_jax.generation.generator import Generator

UPSAMPLER = 1  # folded into the key of a seed, whose own keys are those of the base images
SHARED = ('seed', 'first', 'low_res')  # decided for both stages at once
BEYOND_REQUEST = ('images', 'start', 'record', 'floats', 'progress')  # of `Generator.sample`


@dataclasses.dataclass(frozen=True, eq=False)
class Cascade:
    """A base model and the upsampler of its images, each with its own recipes, parameters and classifier."""

    base: Generator
    upsampler: Generator

    def sample(
        self,
        num_images: int,
        y: Labels | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        base: Mapping[str, Any] | None = None,
        upsampler: Mapping[str, Any] | None = None,
        **other: Any,
    ) -> Samples:
        """The enlarged images; the attribute `base` of the result has what the base model sampled.

        Base image i is that of `base.sample` with this seed; the upsampler's seed is `upsampler_seed(seed)`.
        Raises what `Generator.sample` raises, for the upsampler's arguments before the base is sampled.

        Args:
            y: one class for all images or one for each; both models get it.
            seed, first: the images are those with the indices first, first + 1, … of the seed.
            base, upsampler: options of one stage, such as {'scale': 2.0}; see `Generator.sample`.
        """
        stages = _checked_options({'base': base, 'upsampler': upsampler}, other)
        num_images = whole_number('num_images', num_images, 1)
        seeds = {'seed': seed, 'first': first}
        y = class_numbers(y, self.base.classes or self.upsampler.classes)
        enlarge = stages['upsampler'] | seeds | {'seed': upsampler_seed(seed)}
        blank = np.zeros((num_images, *self.base.unet.image_size, self.base.unet.image_channels), np.uint8)
        checked = {name: value for name, value in enlarge.items() if name not in BEYOND_REQUEST}
        self.upsampler.request(num_images, y, low_res=blank, **checked)
        small = self.base.sample(num_images, y, **stages['base'] | seeds)
        large = self.upsampler.sample(num_images, y, low_res=small.images, **enlarge)
        return dataclasses.replace(large, base=small)


def then(base: Generator, upsampler: Generator) -> Cascade:
    """Both models as one that samples enlarged images.

    Raises UserError if the second is no upsampler, or not one of the images and classes of the first.
    """
    unet = getattr(upsampler, 'unet', None)
    if unet is None or not unet.low_res:
        remedy = 'give a model that enlarges images, such as 64_256_upsampler'
        raise UserError('upsampler', 'is no upsampler', remedy)
    check_base(base.unet, unet, upsampler.low_res_size, 'base')
    check_same_classes('base', base.classes, 'the upsampler', upsampler.classes)
    return Cascade(base, upsampler)


def check_base(base: UNetConfig, upsampler: UNetConfig, low_res_size: Size | None, where: str) -> None:
    """Raises UserError unless a network samples the images that an upsampler enlarges.

    Args:
        low_res_size: height and width of these images, if known.
        where: the base in messages.
    """
    if base.low_res:
        raise UserError(where, 'is an upsampler itself', 'give a model that samples without given images')
    if base.image_channels != upsampler.image_channels:
        problem = f'its images have {base.image_channels} channels, those of the upsampler have '
        raise UserError(where, f'{problem}{upsampler.image_channels}', 'give a base of the same channels')
    height, width = base.image_size
    smaller = height < upsampler.image_size[0] and width < upsampler.image_size[1]
    if not smaller or low_res_size not in (None, base.image_size):
        sizes = '×'.join(map(str, low_res_size)) if low_res_size else 'smaller ones than its own'
        problem = f'its images have {height}×{width} pixels; the upsampler enlarges {sizes}'
        raise UserError(where, problem, 'give a base of this size, or another upsampler')
    classes = base.num_classes, upsampler.num_classes
    if None not in classes and classes[0] != classes[1]:
        problem = f'has {classes[0]} classes, the upsampler has {classes[1]}'
        raise UserError(where, problem, 'give models of the same classes')


def upsampler_seed(seed: int) -> int:
    """The seed of the upsampler's noise. With that of its base images, their noise would occur twice."""
    seed = whole_number('seed', seed, below=2**32)
    key = jax.random.fold_in(jax.random.key(np.uint32(seed), impl='threefry2x32'), UPSAMPLER)
    return int(jax.random.bits(key, dtype=np.uint32))


def _checked_options(
    stages: Mapping[str, Mapping[str, Any] | None], other: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The options of each stage. Raises UserError for options that are no dict, or are not of one stage."""
    for name in other:
        remedy = f'give it to one: base={{{name!r}: …}} or upsampler={{{name!r}: …}}'
        raise UserError(name, 'is an option of one stage', remedy)
    for stage, options in stages.items():
        if not isinstance(options, Mapping | None):
            raise UserError(stage, f'got {options!r}', "give a dict of options, such as {'scale': 2.0}")
        for name in (name for name in SHARED if name in (options or {})):
            raise UserError(f'{stage}[{name!r}]', 'is decided for both stages', 'leave it out')
    return {stage: dict(options or {}) for stage, options in stages.items()}
