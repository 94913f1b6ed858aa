"""What public samplers do that ours do not: variants of their releases, and methods that are not offered."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from diffusion_jax.diffusion.process import align, is_last
from diffusion_jax.diffusion.samplers import DPMSolverPP2S, DPMSolverPP3M, DPMSolverPP3MSDE
from diffusion_jax.diffusion.samplers.multistep import (
    combine,
    exponential_moments,
    half_log_snr,
    relative,
    weights,
)


class Released3M(DPMSolverPP3M):
    """As released: the quadratic term is half of what the expansion needs; steps of second order are 2M's."""

    def _integrated(self, history, transition, eta=0.0):
        return released(history, transition, self.max_order, eta, midpoint=True)


class Released3MSDE(DPMSolverPP3MSDE):
    """As released: likewise, but steps of second order have the linear term of the expansion."""

    def _integrated(self, history, transition, eta=0.0):
        return released(history, transition, self.max_order, eta, midpoint=False)


def released(history, transition, max_order, eta, midpoint: bool):
    """The mean and the standard deviation of x after a transition."""
    here, there = transition.level, transition.next
    h = half_log_snr(there) - history.nodes[0]
    count = jnp.where(is_last(transition), 1, jnp.minimum(history.length, max_order))
    zeroth, first, second = exponential_moments((1 + eta) * h, 3)
    first = jnp.where(midpoint & (count == 2), zeroth / 2, first)
    w = weights(relative(history.nodes, history.length, h), count, jnp.stack([zeroth, first, second / 2]))
    kept = there.sigma / here.sigma * jnp.exp(-eta * h) * history.x
    return kept + combine(there.alpha * w, history.values), there.sigma * jnp.sqrt(-jnp.expm1(-2 * eta * h))


class Taylor2S(DPMSolverPP2S):
    """The integral of the straight line through both estimates."""

    def _inside(self, denoise, x, x_0, here, h, memory):
        change, memory = super()._inside(denoise, x, x_0, here, h, memory)
        zeroth, first = exponential_moments(h, 2)
        return align(2 * first / zeroth, x) * change, memory


# (source, config) → whether the run is by a method that this package does not have on purpose; and why.
NOT_OFFERED: list[tuple[Callable[[str, dict[str, Any]], bool], str]] = [
    (
        lambda source, config: (
            config.get('algorithm_type') in ('dpmsolver', 'noise_prediction')
            or config.get('predict_x0') is False
        ),
        'DPM-Solver in eps: its second-generation form in x_0 replaces it',
    ),
    (
        lambda source, config: (
            config.get('solver_type') == 'taylor' and config['method'] != 'multistep' and config['order'] == 3
        ),
        'the Taylor form of 3S, of the same order as 3S',
    ),
    (
        lambda source, config: config.get('variant') == 'vary_coeff',
        'UniPC vary_coeff, which has order 1',
    ),
    (lambda source, config: bool(config.get('afs')), 'an analytical first step'),
    (
        lambda source, config: source == 'ipndm_v_sampler' and config['max_order'] > 2,
        'iPNDM_v of order 3 and 4: wrong coefficients; AdamsBashforth is what it is meant to be',
    ),
    (
        lambda source, config: source == 'deis_sampler' and config['coefficients'] != 'rhoab',
        'tAB-DEIS: its polynomials are in the time of a process other than that of the networks here',
    ),
    (
        lambda source, config: source in ('sample_dpm_2', 'dpm_2_sampler') or 'alpha' in config,
        'second-order steps with an inner point other than that of Heun: 2S has one',
    ),
    (
        lambda source, config: source in ('sample_dpmpp_2s_ancestral', 'sample_dpmpp_sde'),
        'random singlestep methods: 2M-SDE has half of their evaluations',
    ),
    (
        lambda source, config: source == 'sample_euler' and 's_churn' in config,
        "churn with Euler's method",
    ),
    (
        lambda source, config: (
            config.get('scaling', 'none') != 'none'
            or (source == 'ablation_sampler' and config.get('schedule', 'linear') != 'linear')
        ),
        'steps of another time than σ, which solve another discretisation of the ODE',
    ),
]
