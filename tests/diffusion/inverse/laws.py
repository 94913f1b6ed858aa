"""The law of each method on Gaussian data: the error of its mean, and its share of the posterior's variance.

`python -m tests.diffusion.inverse.laws` prints the table.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import path
from diffusion_jax.diffusion.inverse import DAPS, DDNM, DDRM, DPS, DiffPIR, PiGDM, RePaint
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.diffusion.schedules import between
from tests.diffusion.mixture import vp_levels
from tests.parity.case import Case
from tests.parity.posterior.laws import Prober, propagate, simulate, whole_chain
from tests.parity.posterior.methods import Method
from tests.parity.posterior.model import Model, model_of

STEPS = '100'


class Bias(NamedTuple):
    """The error of the mean, in posterior standard deviations, and the ratio of variances to the posterior's.

    Each in the measured directions and in the others, by sums of squares over them.
    """

    mean: tuple[float, float]
    variance: tuple[float, float]


@functools.cache
def model() -> Model:
    """Four pixels with correlations, of which the first and the third are measured, with noise 0.3."""
    return model_of(Case(Path(__file__).parents[2] / 'golden' / 'posterior_gaussian_mask4.json'))


def methods() -> dict[str, Method]:
    m = model().measurement
    return {
        'PiGDM, DDIM': Method(DDIM(), (PiGDM(m),)),
        'PiGDM, DDPM': Method(DDPM(), (PiGDM(m),)),
        'DPS': Method(DPS(m)),
        'DDNM': Method(DDNM(m)),
        'DDNM, ancestral': Method(DDNM(m, ancestral=True)),
        'DDRM': Method(DDRM(m)),
        'DiffPIR': Method(DiffPIR(m)),
        'RePaint': Method(RePaint(m)),
        'RePaint, jumps': Method(RePaint(m)),
        'DAPS': Method(DAPS(m, rate=2e-3, last_rate=0.1, langevin_steps=20)),
    }


@functools.cache
def bias(name: str) -> Bias:
    """Exactly, but for DPS, which is simulated with 20,000 chains."""
    method, config = methods()[name], DiffusionConfig(schedule='linear', num_timesteps=1000)
    with jax.enable_x64(True):
        if name == 'DAPS':
            roots = np.linspace(10 ** (1 / 7), 0.1 ** (1 / 7), 21)[:-1]
            mean, cov = whole_chain(method, model(), between(vp_levels([*roots**7, 0.0])), 21)
        elif name == 'DPS':
            x_0 = simulate(method, model(), between(path(config, STEPS)), 20_000)
            mean, cov = x_0.mean(0), np.cov(x_0.T)
        else:
            grid = between(path(config, f'repaint:{STEPS}/5,3' if name.endswith('jumps') else STEPS))
            first = np.arange(len(grid.level.t)) == 0
            means, covs = propagate(Prober(model(), grid, first).maps(method))
            mean, cov = means[-1], covs[-1]
        _, means, covs, _ = model().posterior(1.0)
    errors, variances, truth = (mean - means[0]) ** 2, np.diag(cov), np.diag(covs[0])

    def ratio(values: np.ndarray) -> tuple[float, float]:
        return tuple(float(values[i::2].sum() / truth[i::2].sum()) for i in (0, 1))

    measured, others = ratio(errors)
    return Bias((measured**0.5, others**0.5), ratio(variances))


if __name__ == '__main__':
    for name in methods():
        (mean, other), (variance, other_variance) = bias(name)
        print(f'| {name} | {mean:.2f} / {other:.2f} | {variance:.2f} / {other_variance:.2f} |')
