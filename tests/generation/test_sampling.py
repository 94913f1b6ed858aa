import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import models
from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, SAMPLERS
from diffusion_jax.diffusion.samplers.loop import initial_noise, per_sample_noise
from diffusion_jax.generation import Samples, options, sampling
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.sampling import Request, sample_keys
from diffusion_jax.sharding import batch_sharding, make_mesh, replicated
from tests.tiny import CLASSIFIER, DIFFUSION, UNET

NETWORKS = Networks(UNET, DIFFUSION, CLASSIFIER)


def randomize(tree, key):
    """Parameters in which nothing is zero."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    noisy = [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


@functools.cache
def params():
    """Random parameters, so that the classifier has a gradient."""
    init = jax.jit(models.init, static_argnums=0)
    return {
        'diffusion': randomize(init(UNET, jax.random.key(0)), jax.random.key(1)),
        'classifier': randomize(init(CLASSIFIER, jax.random.key(2)), jax.random.key(3)),
    }


def request(index, *, seed=0, scale=2.0, eta=0.5, y=None, sampler=None, **how):
    index = jnp.asarray(index, jnp.int32)
    y = index % 10 if y is None else jnp.asarray(y, jnp.int32)
    guidance = (ClassifierGuidance(scale),) if scale is not None else ()
    recipe = Recipe(sampler or DDIM(eta), guidance, **{'respacing': 'ddim5'} | how)
    return Request(jnp.uint32(seed), index, y, options.traced(recipe, len(index)))


_generate = jax.jit(sampling.generate, static_argnums=0, static_argnames='remat')


def generate(params, request, networks=NETWORKS):
    return _generate(networks, params, request).images


def test_scale_labels_eta_and_seed_compile_nothing(compilations):
    first = _generate(NETWORKS, params(), request(range(4)))
    assert isinstance(first, Samples) and first.evaluations == 5
    assert first.x_0.shape == (4, 8, 8, 1) and first.x_0.dtype == np.float32
    assert first.records is None and first.log_weight is None
    first = first.images
    assert first.shape == (4, 8, 8, 1) and first.dtype == np.uint8
    assert any('generate' in name for name in compilations)
    compilations.clear()
    changed = [
        request(range(4), scale=7.0),
        request(range(4), y=[3, 3, 3, 3]),
        request(range(4), eta=0.0),
        request(range(4), seed=11),
        request(range(4, 8)),
    ]
    images = [np.asarray(generate(params(), each)) for each in changed]
    assert [name for name in compilations if 'generate' in name] == []
    for image in images:
        assert not np.array_equal(image, first)


def test_noise_of_a_sample_is_the_same_to_the_bit_in_any_batch():
    keys = sample_keys(jnp.uint32(5), jnp.arange(12))
    whole = initial_noise(keys, (8, 8, 1)), per_sample_noise(keys, 3, (8, 8, 1))
    for size in (1, 2, 5):
        for start in range(0, 12 - size, size):
            part = sample_keys(jnp.uint32(5), jnp.arange(start, start + size))
            np.testing.assert_array_equal(initial_noise(part, (8, 8, 1)), whole[0][start : start + size])
            np.testing.assert_array_equal(
                per_sample_noise(part, 3, (8, 8, 1)), whole[1][start : start + size]
            )
    spread = jax.device_put(jnp.arange(8), batch_sharding(make_mesh(8, 1)))
    sharded = jax.jit(lambda index: initial_noise(sample_keys(jnp.uint32(5), index), (8, 8, 1)))(spread)
    np.testing.assert_array_equal(sharded, whole[0][:8])


def test_image_is_the_same_within_rounding_at_any_batch_size_and_device_count():
    def close(a, b):
        # One grey level: truncation turns rounding into whole steps.
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1

    eight = generate(params(), request(range(8)))
    four = np.concatenate([generate(params(), request(range(i, i + 4))) for i in (0, 4)])
    close(eight, four)
    mesh = make_mesh(8, 1)
    spread = request(range(8))
    spread = spread._replace(
        index=jax.device_put(spread.index, batch_sharding(mesh)),
        y=jax.device_put(spread.y, batch_sharding(mesh)),
    )
    close(eight, generate(jax.device_put(params(), replicated(mesh)), spread))


def test_scale_zero_is_unguided_sampling():
    unguided = generate(params(), request(range(4), scale=None), Networks(UNET, DIFFUSION))
    guided = np.asarray(generate(params(), request(range(4), scale=0.0)), int)
    assert np.abs(guided - np.asarray(unguided, int)).max() <= 1


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_the_classifier_reaches_every_sampler(sampler):
    how = {'sampler': SAMPLERS[sampler](), 'respacing': '5'}
    images = {
        (scale, label): generate(params(), request(range(4), scale=scale, y=4 * [label], **how))
        for scale in (0.0, 100.0)
        for label in (0, 1)
    }
    np.testing.assert_array_equal(images[0.0, 0], images[0.0, 1])
    assert not np.array_equal(images[100.0, 0], images[100.0, 1])
    assert not np.array_equal(images[100.0, 0], images[0.0, 0])


def test_without_clipping_x_0_leaves_the_range_of_images():
    free, clipped = (
        _generate(NETWORKS, params(), request(range(4), scale=None, clip=c)).x_0 for c in (False, True)
    )
    assert np.abs(clipped).max() <= 1 + 1e-5 < np.abs(free).max()
