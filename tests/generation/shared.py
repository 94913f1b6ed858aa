"""A tiny model with random parameters, and how its images are compared."""

import dataclasses
import functools

import jax
import numpy as np

from diffusion_jax import models
from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.generation import Generator, Samples
from diffusion_jax.generation.networks import Networks
from diffusion_jax.sharding import make_mesh
from tests.tiny import CLASSIFIER, CONDITIONAL_UNET, DIFFUSION, UNET

STEPS = {'sampler': 'ddim', 'respacing': 'ddim5'}
RECIPES = (
    ('paper', Recipe(DDPM(), (ClassifierGuidance(3.0),), '5')),
    ('paper-ddim', Recipe(DDIM(), (ClassifierGuidance(30.0),), 'ddim5')),
)


@functools.cache
def random_params(network, seed=0):
    """Parameters of which none is zero, so that a classifier has a gradient."""
    tree = jax.jit(models.init, static_argnums=0)(network, jax.random.key(seed))
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def params():
    return {'diffusion': random_params(UNET), 'classifier': random_params(CLASSIFIER, 2)}


def quiet_params():
    """Of a network whose output is nearly 0."""
    tree = random_params(UNET)
    return {'diffusion': tree | {'conv_out': jax.tree.map(lambda leaf: 1e-3 * leaf, tree['conv_out'])}}


def make_model(unet=UNET, tree=None, classifier=CLASSIFIER, recipes=RECIPES):
    mesh = make_mesh(1, 1, jax.devices()[:1])
    return Generator(unet, DIFFUSION, tree or params(), mesh, classifier, recipes)


def make_guided():
    """A model that supports every guidance: with classes, a null class, a classifier and a weak model."""
    unet = dataclasses.replace(CONDITIONAL_UNET, label_dropout=0.1)
    tree = params() | {'diffusion': random_params(unet), 'weak': random_params(UNET, 4)}
    model = make_model(unet, tree)
    return dataclasses.replace(model, weak=Networks(UNET, DIFFUSION, mesh=model.mesh))


def images(found):
    return found.images if isinstance(found, Samples) else found


def closeness(a, b):
    """The largest difference in grey levels; truncation turns rounding into 1."""
    return np.abs(np.asarray(images(a), int) - np.asarray(images(b), int)).max()


def assert_equal(a, b):
    np.testing.assert_array_equal(images(a), images(b))
