"""Grids of which several levels are nearest to the same timestep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.denoiser import plain
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.diffusion.process import from_x_0
from diffusion_jax.diffusion.samplers import DDIM, DDPM, SAMPLERS, SMC, DPMSolverPP2M, Heun, UniPC, sample
from diffusion_jax.diffusion.samplers.loop import noise_of

COSINE = DiffusionConfig(schedule='cosine')
SHAPE = (2, 2, 1)


def images(sampler, respacing, variance='fixed_small'):
    """Of a standard normal, with the exact denoiser."""

    def denoise(x_t, level):
        return from_x_0(level.alpha * x_t, x_t, level)._replace(variance=0.3 * jnp.ones_like(x_t))

    keys = jax.random.split(jax.random.key(0), 4)
    grid = make_grid(COSINE, respacing, 'nearest')
    arguments = grid, noise_of(keys, SHAPE), noise_of(keys, SHAPE)(0, 0)
    return sample(sampler, plain(denoise, variance=variance), *arguments)[0].x


# 2M starts again after an empty step, and UniPC evaluates again where it has corrected x.
ODE = [kind() for kind in SAMPLERS.values() if kind.order and not issubclass(kind, (DPMSolverPP2M, UniPC))]


@pytest.mark.parametrize('sampler', ODE, ids=lambda sampler: type(sampler).__name__)
def test_deterministic_samplers_do_nothing_between_them(sampler):
    once, twice = (images(sampler, f't:900,500,{more}100') for more in ('', '500,'))
    np.testing.assert_allclose(twice, once, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    'sampler', [DDIM(1.0), Heun(2.0), SMC(2), *(kind() for kind in SAMPLERS.values() if kind is not SMC)]
)
def test_other_samplers_stay_finite(sampler):
    assert jnp.isfinite(images(sampler, 't:900,500,500,100')).all()


@pytest.mark.parametrize('variance', ['fixed_small', 'fixed_large', 'learned_range'])
def test_ancestral_sampling_is_finite(variance):
    assert jnp.isfinite(images(DDPM(), 't:900,500,500,100', variance)).all()


def test_churn_changes_the_image_between_them():
    once, twice = (images(Heun(2.0), f't:900,500,{more}100') for more in ('', '500,'))
    assert jnp.isfinite(twice).all() and jnp.abs(once - twice).max() > 0.01


def test_levels_may_be_equal_after_rounding_only():
    grid = make_grid(COSINE, 'karras:256', 'nearest')  # EDM's steps for ImageNet 64×64
    assert (np.diff(grid.level.sigma) == 0).any()
    for respacing, timesteps in (('t:500,500', 'fractional'), ('t:100,500', 'nearest')):
        with pytest.raises(ValueError, match='less noisy'):
            make_grid(COSINE, respacing, timesteps)
