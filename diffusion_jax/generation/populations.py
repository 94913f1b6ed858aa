"""Checks for samplers whose images depend on each other in populations, such as SMC."""

from typing import Any

import jax
import numpy as np

from diffusion_jax.diffusion.guidance import Reward, innermost
from diffusion_jax.diffusion.inverse import PiGDM
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.errors import UserError
from diffusion_jax.generation.arguments import NotFinite


def check_population(recipe: Recipe, num_images: int, rows: dict[str, Any]) -> None:
    """UserError unless the images are complete populations, each with one label and one scale.

    rows: by name, pytrees of arrays of the host; those with num_images rows are of the images.
    """
    sampler, size = type(recipe.sampler).__name__, recipe.sampler.population
    if size == 1:
        if any(isinstance(innermost(each), Reward) for each in recipe.guidance):
            problem = f'a reward weighs particles, and the sampler {sampler} has none'
            raise UserError('guidance', problem, "use sampler='smc'")
        return
    for part in map(innermost, recipe.guidance):
        if isinstance(part, PiGDM) and not np.all(np.asarray(part.measurement.noise) > 0):
            remedy = f'{sampler} weighs images by their likelihood, which needs noise, such as 0.02'
            raise UserError('Measurement.noise', 'is 0', remedy)
    if num_images % size:
        raise UserError('num_images', f'got {num_images}', f'{sampler} needs a multiple of {size} particles')
    for name, tree in rows.items():
        for path, array in jax.tree_util.tree_leaves_with_path(jax.tree.map(np.asarray, tree)):
            if array.shape[:1] == (num_images,):
                grouped = array.reshape(-1, size, *array.shape[1:])
                if (grouped != grouped[:, :1]).any():
                    remedy = f'must be the same for each {size} particles of {sampler}'
                    where = getattr(path[-1], 'name', name) if path else name  # of a part's field
                    raise UserError(where, 'differs within a population', remedy)


def check_weights(log_weight: np.ndarray, size: int, index: np.ndarray) -> None:
    """NotFinite unless in every population of log-weights [B] some are finite, and the others −∞."""
    finite = np.isfinite(log_weight).reshape(-1, size)
    wrong = ~((finite | np.isneginf(log_weight).reshape(-1, size)).all(axis=1) & finite.any(axis=1))
    if wrong.any():
        first = index.reshape(-1, size)[wrong][0]
        where = f'{wrong.sum()} of {len(wrong)} populations (the first is index {first[0]} to {first[-1]})'
        remedy = 'use a log_prob that is finite for images of the model: one NaN spoils a population'
        raise NotFinite('log_weight', f'not finite in {where}', remedy)
