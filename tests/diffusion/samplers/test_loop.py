import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.guidance import classifier_guidance
from diffusion_jax.diffusion.samplers.ddim import ddim_step
from diffusion_jax.diffusion.samplers.loop import initial_noise, per_sample_noise, sample_loop, sample_steps
from diffusion_jax.diffusion.schedules import make_schedule, transitions
from tests.diffusion.gaussian import Data

TABLE = transitions(make_schedule('linear', 1000, 'ddim5'))
LEVELS = transitions(make_schedule('linear', 1000)).level
KEYS = jax.random.split(jax.random.key(0), 4)
SHAPE = (4, 4, 1)


def test_rows_come_from_the_noisiest_on_with_the_noise_of_their_position():
    def step(x_t, transition, noise):
        assert transition.level.t.shape == (4,)
        return 0.5 * x_t + transition.level.t[:, None, None, None] + noise

    x_T = initial_noise(KEYS, SHAPE)
    expected = x_T
    for position, t in enumerate([800, 600, 400, 200, 0], start=1):
        expected = 0.5 * expected + t + per_sample_noise(KEYS, position, SHAPE)
    np.testing.assert_allclose(sample_loop(step, TABLE, KEYS, x_T), expected, rtol=1e-6)


def test_an_image_depends_on_its_own_key_alone():
    @jax.jit
    def sample(keys):
        def step(x_t, transition, noise):
            return ddim_step(Data().denoise, x_t, transition, noise, 1.0)

        return sample_loop(step, TABLE, keys, initial_noise(keys, SHAPE))

    together = sample(KEYS)
    alone = sample(KEYS[2:3])
    np.testing.assert_allclose(alone[0], together[2], atol=1e-6)
    assert not np.allclose(together[0], together[1])


def test_parts_of_the_loop_and_the_loop_that_records_are_the_loop():
    def step(x_t, transition, noise):
        return ddim_step(Data().denoise, x_t, transition, noise, 1.0)

    x_T = initial_noise(KEYS, SHAPE)
    whole = jax.jit(lambda x: sample_loop(step, TABLE, KEYS, x))(x_T)
    part = jax.jit(lambda x, done, until: sample_steps(step, TABLE, KEYS, x, done, until))
    np.testing.assert_array_equal(part(part(x_T, 0, 2), 2, 5), whole)
    x_0, before = sample_loop(lambda *args: (step(*args), args[0]), TABLE, KEYS, x_T, has_aux=True)
    np.testing.assert_allclose(x_0, whole, atol=1e-6)
    np.testing.assert_array_equal(before[0], x_T)
    np.testing.assert_allclose(before[2], part(x_T, 0, 2), atol=1e-6)


def test_noise_is_bitwise_that_of_the_key_and_the_position():
    for position in (0, 3):
        together = per_sample_noise(KEYS, position, SHAPE)
        np.testing.assert_array_equal(per_sample_noise(KEYS[1:3], position, SHAPE), together[1:3])
    np.testing.assert_array_equal(initial_noise(KEYS, SHAPE), per_sample_noise(KEYS, 0, SHAPE))
    assert not np.allclose(per_sample_noise(KEYS, 0, SHAPE), per_sample_noise(KEYS, 1, SHAPE))


def test_other_scales_and_etas_do_not_compile_again():
    traces = []

    @jax.jit
    def sample(keys, scale, eta):
        traces.append(1)
        denoise = classifier_guidance(Data().denoise, Data().log_prob(LEVELS), scale)

        def step(x_t, transition, noise):
            return ddim_step(denoise, x_t, transition, noise, eta)

        return sample_loop(step, TABLE, keys, initial_noise(keys, SHAPE))

    images = [sample(KEYS, jnp.float32(scale), jnp.float32(eta)) for scale, eta in ((1, 0), (4, 0), (4, 1))]
    assert len(traces) == 1
    assert not np.allclose(images[0], images[1]) and not np.allclose(images[1], images[2])
