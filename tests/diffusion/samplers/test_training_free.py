"""Training-free guidance and time travel on Gaussian data with a linear measurement.

All of it is affine there, also the steps of ascent: x_0 is offset + Σ columns·draws, and its mean and
covariance are derived a second time below, in float64, by propagating both through each step.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.diffusion.guidance import Models, ReconstructionGuidance
from diffusion_jax.diffusion.jumps import travelled
from diffusion_jax.diffusion.log_probs import smoothed
from diffusion_jax.diffusion.samplers import DDIM, DDPM, TFG
from diffusion_jax.diffusion.schedules import between, make_schedule, with_clean
from tests.diffusion.linear_gaussian import LinearGaussian
from tests.diffusion.mixture import affine_map

RNG = np.random.default_rng(1)
ROOT = RNG.normal(size=(3, 3))
DATA = LinearGaussian(
    RNG.normal(size=3),
    0.3 * ROOT @ ROOT.T + 0.2 * np.eye(3),
    RNG.normal(size=(2, 3)),
    np.array([1.0, -0.5]),
    0.5,
)
LEVELS = with_clean(jax.tree.map(lambda a: a[::-1], make_schedule('linear', 1000, '20').level))
RHO, MU, ETA, INNER = 0.06, 0.03, 0.7, 2


def law(sampler, levels=LEVELS, guidance=None, draws=1):
    """Mean and covariance of what our sampler makes of x_T ~ N(0, 1)."""
    denoise = guidance.wrap(DATA.denoiser(), Models()) if guidance else DATA.denoiser()
    with jax.enable_x64(True):
        offset, columns = jax.jit(lambda: affine_map(sampler, denoise, between(levels), 3, draws=draws))()
    columns = np.asarray(columns)
    return np.asarray(offset), columns.T @ columns


def propagated(levels, step):
    """The same from the steps x' = F·x + c + Q·z, which `step` returns for a level and the next."""
    mean, covariance = np.zeros(3), np.eye(3)
    for here, there in zip(zip(*levels, strict=True), list(zip(*levels, strict=True))[1:], strict=False):
        (_, alpha, sigma), (_, alpha_, sigma_) = here, there
        if sigma_ > sigma:
            ratio = alpha_ / alpha
            mean, covariance = ratio * mean, ratio**2 * covariance + (1 - ratio**2) * np.eye(3)
        else:
            F, c, noise = step(alpha, sigma, alpha_, sigma_)
            mean, covariance = F @ mean + c, F @ covariance @ F.T + noise**2 * np.eye(3)
    return mean, covariance


def ddim(alpha, sigma, alpha_, sigma_, estimate, eta):
    """x' = alpha'·(P·x + p) + direction·ε̂ + noise·z, where x̂_0 moves to P·x + p and ε̂ does not follow."""
    slope = alpha * DATA.covariance @ np.linalg.inv(alpha**2 * DATA.covariance + sigma**2 * np.eye(3))
    offset = DATA.mean - alpha * slope @ DATA.mean  # x̂_0 = slope·x + offset
    noise = eta * sigma_ / sigma * np.sqrt(1 - (alpha / alpha_) ** 2)
    direction = np.sqrt(max(sigma_**2 - noise**2, 0))
    P, p = estimate(slope, offset)
    F = alpha_ * P + direction / sigma * (np.eye(3) - alpha * slope)
    return F, alpha_ * p - direction * alpha / sigma * offset, noise


def gradient_of(slope, offset):
    """AᵀA and Aᵀy of the likelihood's gradient at slope·x + offset, as a map of x."""
    precision = DATA.A.T @ DATA.A / DATA.s_y**2
    return -precision @ slope, DATA.A.T @ DATA.y / DATA.s_y**2 - precision @ offset


def tfg_step(alpha, sigma, alpha_, sigma_, rho=RHO, mu=MU, inner=INNER, eta=ETA):
    weight = (alpha / alpha_) ** 2

    def moved(slope, offset):
        G, g = gradient_of(slope, offset)
        P, p = slope + rho * weight / alpha * slope.T @ G, offset + rho * weight / alpha * slope.T @ g
        S, s = slope, offset
        for _ in range(inner):
            G, g = gradient_of(S, s)
            S, s = S + mu * weight * G, s + mu * weight * g
        return P + S - slope, p + s - offset

    return ddim(alpha, sigma, alpha_, sigma_, moved, eta)


def assert_same_law(ours, derived):
    for got, expected in zip(ours, derived, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)


TFG_HERE = TFG(RHO, MU, 0.0, ETA, log_prob=DATA.likelihood, inner=INNER)


def test_the_law_of_training_free_guidance():
    assert_same_law(law(TFG_HERE, draws=2), propagated(LEVELS, tfg_step))


def test_the_gradient_of_guidance_is_added_to_that_of_the_step():
    other = ReconstructionGuidance(0.05, DATA.likelihood)

    def added(*at, rho, inner):  # without the weight
        return tfg_step(*at, rho=rho + 0.05 / (at[0] / at[2]) ** 2, inner=inner)

    alone = propagated(LEVELS, lambda *at: added(*at, rho=0.0, inner=0))
    assert_same_law(law(TFG(eta=ETA), guidance=other), alone)
    both = propagated(LEVELS, lambda *at: added(*at, rho=RHO, inner=INNER))
    assert_same_law(law(TFG_HERE, guidance=other, draws=2), both)


@pytest.mark.parametrize(
    ('rho', 'measured', 'other'),
    [
        (0.0, (1.94, 2.10), (0.70, 1.16)),  # the data themselves
        (0.01, (0.44, 1.00), (0.35, 1.04)),
        (0.05, (0.74, 0.23), (0.35, 0.81)),
        (0.2, (0.78, 0.01), (0.72, 0.61)),  # nearly y itself, as if it had no noise
    ],
)
def test_its_bias_on_gaussian_data(rho, measured, other):
    """It is not the posterior at any ρ: what is measured is too certain where ρ is large enough to reach it.

    In the directions that A measures, and in the other one: the error of the mean in posterior standard
    deviations (root of the mean square), and the ratio of variances. 100 steps.
    """
    levels = with_clean(jax.tree.map(lambda a: a[::-1], make_schedule('linear', 1000, '100').level))
    mean, covariance = propagated(levels, lambda *at: tfg_step(*at, rho=rho, mu=0.0, eta=1.0))
    exact_mean, exact = DATA.posterior()
    directions = np.linalg.svd(DATA.A)[2]
    for axes, expected in ((directions[:2], measured), (directions[2:], other)):
        variances = np.diag(axes @ exact @ axes.T)
        error = np.sqrt(np.mean((axes @ (mean - exact_mean)) ** 2 / variances))
        ratio = np.trace(axes @ covariance @ axes.T) / variances.sum()
        np.testing.assert_allclose([error, ratio], expected, atol=0.006)


@pytest.mark.parametrize('sampler', [DDIM(ETA), DDPM()])
@pytest.mark.parametrize(('length', 'times'), [(1, 3), (4, 2), (7, 2), (50, 2)])
def test_the_law_of_time_travel(sampler, length, times):
    levels = travelled(LEVELS, length, times)
    eta = 1.0 if isinstance(sampler, DDPM) else ETA

    def step(*at):
        return ddim(*at, lambda slope, offset: (slope, offset), eta)

    assert_same_law(law(sampler, levels), propagated(levels, step))


def test_a_recurrence_of_training_free_guidance_is_a_travel_of_one_step():
    levels = travelled(LEVELS, 1, 2)
    assert len(levels.t) == 3 * 20 + 1
    assert_same_law(law(TFG_HERE, levels, draws=2), propagated(levels, tfg_step))


def test_draws_around_the_estimate_widen_the_likelihood():
    """With K → ∞ the smoothed likelihood of y = A·x_0 has the variance s_y² + spread²·sigma²·AAᵀ."""
    level = jax.tree.map(lambda a: a[5], LEVELS)
    x_0 = jnp.asarray(DATA.as_images(RNG.normal(size=(1, 3))), jnp.float32)
    draws = jnp.asarray(DATA.as_images(RNG.normal(size=(200_000, 1, 3))), jnp.float32)
    found = jax.grad(lambda x: smoothed(DATA.likelihood, draws, 0.8)(x, level).sum())(x_0)
    spread = DATA.s_y**2 * np.eye(2) + (0.8 * level.sigma) ** 2 * DATA.A @ DATA.A.T
    exact = DATA.A.T @ np.linalg.solve(spread, DATA.y - DATA.A @ np.ravel(x_0))
    np.testing.assert_allclose(np.ravel(found), exact, rtol=0.03, atol=0.03)


def test_grids_that_travel():
    plain, grid = (make_grid(DiffusionConfig(), name) for name in ('ddim10', 'travel:ddim10/4,3'))
    t, visited = [*plain.level.t, 0.0], [*grid.level.t, grid.next.t[-1]]
    assert visited == t[:5] + t[0:5] * 2 + t[5:9] + t[4:9] * 2 + t[9:] + t[8:] * 2
    np.testing.assert_array_equal(grid.renoise, np.diff(grid.level.sigma, append=0) > 0)
    for name, value in grid.next._asdict().items():
        np.testing.assert_array_equal(value[:-1], getattr(grid.level, name)[1:])
    for name in ('travel:karras:6/2,2', 'travel:/500,2', 'travel:90,60,60,20,20/10,2'):
        assert np.isfinite(np.concatenate([*make_grid(DiffusionConfig(), name).next])).all()
    once = make_grid(DiffusionConfig(), 'travel:20/5,1')
    for got, expected in zip(
        jax.tree.leaves(once), jax.tree.leaves(make_grid(DiffusionConfig(), '20')), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
    for wrong in ('travel:20', 'travel:20/5', 'travel:20/0,2', 'travel:20/5,x', 'travel:x/5,2'):
        with pytest.raises(ValueError):
            make_grid(DiffusionConfig(), wrong)
    with pytest.raises(ValueError, match='previous_x'):
        make_grid(DiffusionConfig(prediction='previous_x'), 'travel:20/5,2')
