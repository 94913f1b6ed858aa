import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import DDIM, SAMPLERS, SMC
from diffusion_jax.diffusion.samplers.loop import noise_of
from diffusion_jax.generation import Samples, sampling
from diffusion_jax.generation.arguments import traced
from diffusion_jax.generation.networks import Networks
from diffusion_jax.generation.sampling import Request, sample_keys
from diffusion_jax.sharding import batch_sharding, make_mesh, replicated
from tests.generation.shared import closeness, params
from tests.tiers import fast_for
from tests.tiny import CLASSIFIER, DIFFUSION, UNET

NETWORKS = Networks(UNET, DIFFUSION, CLASSIFIER)


def request(index, *, seed=0, scale=2.0, eta=0.5, y=None, sampler=None, **how):
    index = jnp.asarray(index, jnp.int32)
    y = index % 10 if y is None else jnp.asarray(y, jnp.int32)
    guidance = (ClassifierGuidance(scale),) if scale is not None else ()
    recipe = Recipe(sampler or DDIM(eta), guidance, **{'respacing': 'ddim5'} | how)
    return Request(jnp.uint32(seed), index, y, traced(recipe, len(index)))


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


def test_noise_of_a_sample_is_bitwise_the_same_in_any_batch():
    def noise(index):
        return noise_of(sample_keys(jnp.uint32(5), index), (8, 8, 1))(0, 0)

    together = noise(jnp.arange(12))
    for size in (1, 2, 5):
        for start in range(0, 12 - size, size):
            part = noise(jnp.arange(start, start + size))
            np.testing.assert_array_equal(part, together[start : start + size])
    spread = jax.device_put(jnp.arange(8), batch_sharding(make_mesh(8, 1)))
    np.testing.assert_array_equal(jax.jit(noise)(spread), together[:8])


def test_an_image_is_the_same_within_rounding_at_any_batch_size_and_device_count():
    eight = generate(params(), request(range(8)))
    four = np.concatenate([generate(params(), request(range(i, i + 4))) for i in (0, 4)])
    assert closeness(eight, four) <= 1
    mesh = make_mesh(8, 1)
    spread = request(range(8))
    spread = spread._replace(
        index=jax.device_put(spread.index, batch_sharding(mesh)),
        y=jax.device_put(spread.y, batch_sharding(mesh)),
    )
    assert closeness(eight, generate(jax.device_put(params(), replicated(mesh)), spread)) <= 1


def test_scale_zero_is_unguided_sampling():
    unguided = generate(params(), request(range(4), scale=None), Networks(UNET, DIFFUSION))
    assert closeness(generate(params(), request(range(4), scale=0.0)), unguided) <= 1


# Gradients shift the mean, shift the score, weigh particles, or are the sampler's own.
@pytest.mark.parametrize('name', fast_for(SAMPLERS, ('ddpm', 'smc', 'tfg')))
def test_the_classifier_reaches_every_sampler(name):
    sampler = SMC(particles=4) if name == 'smc' else SAMPLERS[name]()
    how = {'sampler': sampler, 'respacing': '5'}
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
