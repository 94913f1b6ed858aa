import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.samplers.ddim import ddim_reverse_loop, ddim_step
from diffusion_jax.diffusion.samplers.ddpm import ddpm_step
from diffusion_jax.diffusion.schedules import make_schedule, row, transitions
from tests.diffusion.gaussian import Data

DATA = Data(mean=0.2, variance=0.3)
X, NOISE = (jax.random.normal(jax.random.key(seed), (50, 4, 4, 1)) for seed in (0, 1))


def test_eta_1_is_the_ancestral_step_with_the_small_variance():
    table = transitions(make_schedule('cosine', 1000, '50'))
    ours = ddim_step(DATA.denoise, X, table, NOISE, 1.0)
    np.testing.assert_allclose(ours, ddpm_step(DATA.denoise, X, table, NOISE, 'fixed_small'), atol=2e-5)


def test_eta_0_uses_no_noise_and_no_step_lands_outside_the_numbers():
    """Two steps over the cosine schedule: the direction's remainder 1e-13 is below float32's rounding."""
    for respacing in ('2', '50'):
        table = transitions(make_schedule('cosine', 1000, respacing))
        x, noise = X[: len(table.level.t)], NOISE[: len(table.level.t)]
        still = ddim_step(DATA.denoise, x, table, noise, 0.0)
        np.testing.assert_array_equal(still, ddim_step(DATA.denoise, x, table, -noise, 0.0))
        for eta in (0.5, 1.0):
            assert np.all(np.isfinite(ddim_step(DATA.denoise, x, table, noise, eta)))


def test_the_last_step_returns_the_predicted_image():
    table = transitions(make_schedule('linear', 1000, '10'))
    last = row(table, jnp.zeros(50, int))
    x_0 = DATA.denoise(X, last).x_0
    for step in (
        lambda: ddim_step(DATA.denoise, X, last, NOISE, 1.0),
        lambda: ddpm_step(DATA.denoise, X, last, NOISE, 'fixed_large'),
    ):
        np.testing.assert_allclose(step(), x_0, atol=1e-6)


def test_reversed_sampling_comes_back_the_closer_the_more_steps():
    x_0 = 0.2 + np.sqrt(0.3) * X[:2]

    def round_trip(respacing):
        table = transitions(make_schedule('linear', 1000, respacing))

        def back(x_t, transition):
            return ddim_step(DATA.denoise, x_t, transition, x_t, 0.0), None

        # Row 0 leads from the first level to the clean image, which the way up does not contain.
        steps = jax.tree.map(lambda values: jnp.repeat(values[1:, None], 2, axis=1), table)
        x_T = ddim_reverse_loop(DATA.denoise, table, x_0)
        return np.abs(jax.lax.scan(back, x_T, steps, reverse=True)[0] - x_0).max()

    coarse, fine = round_trip('ddim50'), round_trip('ddim200')
    assert fine < 0.05
    np.testing.assert_allclose(coarse / fine, 4, rtol=0.3)
