"""How often something is evaluated while a compiled program runs, and what samplers are given."""

import jax
import numpy as np

from diffusion_jax.diffusion.samplers import DDIM, sample
from tests.diffusion.mixture import make_mixture, vp_grid

SHAPE = (2, 2, 3)
MIXTURE = make_mixture(SHAPE)
SIGMAS = [40.0, 10.0, 3.0, 1.0, 0.3, 0.1]
GRID = vp_grid([*SIGMAS, 0.0], np.float32)
START = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)


class Calls:
    """Wraps functions of (x, level), and notes the edm_sigma of every call at run time."""

    def __init__(self):
        self.sigmas = []

    def of(self, function):
        def noted(x, level):
            jax.debug.callback(lambda sigma: self.sigmas.append(float(sigma)), level.edm_sigma)
            return function(x, level)

        return noted

    def take(self):
        jax.effects_barrier()
        taken, self.sigmas = sorted(self.sigmas, reverse=True), []
        return taken


def run(denoise, sampler=None, grid=GRID):
    """x_0, and the prediction before every step with its gradient."""

    def record(state, prediction, transition):
        return prediction

    def steps(x_T):
        return sample(sampler or DDIM(), denoise, grid, lambda position, i: 0 * x_T, x_T, record=record)

    state, predictions = jax.jit(steps)(START)
    return state.x, predictions
