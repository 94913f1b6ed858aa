"""The law of each method on Gaussian data: the error of its mean, and its share of the posterior's variance.

experiments/exactness.py makes the table of docs/exactness.md.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import path
from diffusion_jax.diffusion.guidance import ClassifierGuidance
from diffusion_jax.diffusion.inverse import DAPS, DDNM, DDRM, DPS, DiffPIR, PiGDM, RePaint
from diffusion_jax.diffusion.process import Level, Transition
from diffusion_jax.diffusion.samplers import DDIM, DDPM, SMC
from diffusion_jax.diffusion.schedules import between
from tests.diffusion.mixture import vp_levels
from tests.diffusion.populations import draw_populations, moments, weighted
from tests.parity.case import Case
from tests.parity.posterior.laws import Prober, propagate, simulate, whole_chain
from tests.parity.posterior.methods import Method
from tests.parity.posterior.model import Model, model_of

GOLDEN = Path(__file__).parents[2] / 'golden'
STEPS, PARTICLES = '100', 32


class Bias(NamedTuple):
    """The error of the mean, in posterior standard deviations, and the ratio of variances to the posterior's.

    Each in the measured directions and in the others, by sums of squares over them.
    """

    mean: tuple[float, float]
    variance: tuple[float, float]


@functools.cache
def model() -> Model:
    """Four pixels with correlations, of which the first and the third are measured, with noise 0.3."""
    return model_of(Case(GOLDEN / 'posterior_gaussian_mask4.json'))


@functools.cache
def mixture() -> Model:
    """Three Gaussians and a measurement that leaves all of them possible."""
    return model_of(Case(GOLDEN / 'posterior_mixture.json'))


def methods(m: Model) -> dict[str, Method]:
    exact = ClassifierGuidance(1.0, m.log_prob)
    y = m.measurement
    return {
        'exact p(y|x_t), DDIM': Method(DDIM(), (exact,)),
        'exact p(y|x_t), DDPM': Method(DDPM(), (exact,), 'fixed_large'),
        'PiGDM, DDIM': Method(DDIM(), (PiGDM(y),)),
        'PiGDM, DDPM': Method(DDPM(), (PiGDM(y),)),
        'PiGDM, SMC': Method(SMC(PARTICLES, threshold=0.5), (PiGDM(y),)),
        'DPS': Method(DPS(y)),
        'DDNM': Method(DDNM(y)),
        'DDNM, ancestral': Method(DDNM(y, ancestral=True)),
        'DDRM': Method(DDRM(y)),
        'DiffPIR': Method(DiffPIR(y)),
        'RePaint': Method(RePaint(y)),
        'RePaint, jumps': Method(RePaint(y)),
        'DAPS': Method(DAPS(y, rate=2e-3, last_rate=0.1, langevin_steps=20)),
    }


def grid_of(name: str) -> Transition:
    """100 steps, with jumps or not; for DAPS 20 levels."""
    if name == 'DAPS':
        roots = np.linspace(10 ** (1 / 7), 0.1 ** (1 / 7), 21)[:-1]
        return between(vp_levels([*roots**7, 0.0]))
    respacing = f'repaint:{STEPS}/5,3' if name.endswith('jumps') else STEPS
    return between(path(DiffusionConfig(schedule='linear', num_timesteps=1000), respacing))


def weighted_images(name: str, m: Model, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulated x_0 [populations, particles, d] and log-weights; a population of one without particles."""
    method, grid = methods(m)[name], grid_of(name)
    if not isinstance(method.sampler, SMC):
        x_0 = simulate(method, m, grid, number)[:, None]
        return x_0, np.zeros(x_0.shape[:2])

    def draw(method: Method) -> tuple[jax.Array, jax.Array]:
        denoise = method.denoiser(m)
        populations = number // PARTICLES
        return draw_populations(method.sampler, denoise, grid, m.size, populations, jax.random.key(0))

    x_0, log_weight = jax.jit(draw)(method)
    return np.asarray(x_0), np.asarray(log_weight)


@functools.cache
def bias(name: str) -> Bias:
    """On the Gaussian: exactly, except that DPS and SMC are simulated."""
    method = methods(model())[name]
    with jax.enable_x64(True):
        grid = grid_of(name)
        if name == 'DAPS':
            mean, cov = whole_chain(method, model(), grid, 21)
        elif name in ('DPS', 'PiGDM, SMC'):
            found = moments(*weighted_images(name, model(), 20_000))
            mean, cov = found['mean'][0], found['cov'][0]
        else:
            first = np.arange(len(grid.level.t)) == 0
            means, covs = propagate(Prober(model(), grid, first).maps(method))
            mean, cov = means[-1], covs[-1]
        _, means, covs, _ = model().posterior(1.0)
    errors, variances, truth = (mean - means[0]) ** 2, np.diag(cov), np.diag(covs[0])

    def ratio(values: np.ndarray) -> tuple[float, float]:
        return tuple(float(values[i::2].sum() / truth[i::2].sum()) for i in (0, 1))

    measured, others = ratio(errors)
    return Bias((measured**0.5, others**0.5), ratio(variances))


def mode_weights(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The weights of the modes of the mixture among 4,000 images, and their standard errors."""
    with jax.enable_x64(True):
        x_0, log_weight = weighted_images(name, mixture(), 4_000)
        clean = Level(0.0, 1.0, 0.0)
        shares = np.exp(mixture().parts(jnp.asarray(x_0.reshape(-1, mixture().size)), clean)[0])
        return weighted(log_weight, np.asarray(shares).reshape(*log_weight.shape, -1))
