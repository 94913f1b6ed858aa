"""Samplers against public implementations: runs with the same start, noise and grid on an exact denoiser.

Recorded images are [..., C, H, W], ours [..., H, W, C]. Where a record has x̄ = x_0 + σ·eps, ours is alpha·x̄.
Runs of samplers, or with rules, that this package does not have are skipped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.denoiser import continuous_level
from diffusion_jax.diffusion.grids import nearest_level
from diffusion_jax.diffusion.process import Level
from diffusion_jax.diffusion.samplers import DDIM, DPMSolverPP2M, Heun, Sampler, sample
from diffusion_jax.diffusion.schedules import between, make_schedule
from tests.diffusion.mixture import Mixture, as_dtype, vp_levels
from tests.parity.case import Case, Check
from tests.parity.compare import compare


class Run(NamedTuple):
    """What a run starts from, and the states that it goes through.

    Attributes:
      x: [N + 1, B, H, W, C], before every step and at the end, in the space of x_t.
      noise: [≥ N, B, H, W, C], of each step.
      has_float32_constants: the implementation did not compute in float64 throughout.
    """

    sampler: Sampler
    levels: Level
    x: np.ndarray
    noise: np.ndarray
    level_at: Callable[[jax.Array], Level] = continuous_level
    has_float32_constants: bool = False


def nhwc(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -3, -1)


def at_sigmas(case: Case, name: str, sampler: Sampler | None, **fields: Any) -> Run | None:
    """A run in the space x_0 + σ·eps, over its recorded σ."""
    if sampler is None:
        return None
    levels = vp_levels(case.arrays[f'{name}/sigma'])
    x = levels.alpha.reshape(-1, 1, 1, 1, 1) * nhwc(case.arrays[f'{name}/x'])
    noise = nhwc(case.arrays['noise']) if 'noise' in case.arrays else np.zeros_like(x)
    return Run(sampler, levels, x, noise, **fields)


def heun(config: dict[str, Any]) -> Heun:
    """With churn, under the names of EDM or of k-diffusion."""
    names = {'S_churn': 's_churn', 'S_min': 's_min', 'S_max': 's_max', 'S_noise': 's_noise'}
    names |= {'s_churn': 's_churn', 's_tmin': 's_min', 's_tmax': 's_max', 's_noise': 's_noise'}
    return Heun(**{ours: config[theirs] for theirs, ours in names.items() if theirs in config})


def edm(case: Case, name: str, config: dict[str, Any]) -> Run | None:
    sampler = heun(config) if config.get('solver', 'heun') == 'heun' else DDIM()
    other_ode = config.get('scaling', 'none') != 'none' or config.get('schedule', 'linear') != 'linear'
    if other_ode or 'alpha' in config or ('S_churn' in config and isinstance(sampler, DDIM)):
        return None
    if config['round_sigma'] == 'identity':
        return at_sigmas(case, name, sampler)
    rounded = functools.partial(nearest_level, make_schedule('cosine', 1000))  # a table in float32, there
    return at_sigmas(case, name, sampler, level_at=rounded, has_float32_constants=True)


def restart(case: Case, name: str, config: dict[str, Any]) -> Run | None:
    """Steps up are transitions of the grid, and their noise is scaled by S_noise."""
    if config['restart_gamma'] > 0:
        return None  # churn that acts in restarts only
    start, end = case.arrays[f'{name}/step_from'], case.arrays[f'{name}/step_to']
    states = nhwc(case.arrays[f'{name}/x'])
    sigmas, x, scales = [start[0]], [states[0]], []
    for k in range(len(start)):
        if start[k] > sigmas[-1] * (1 + 1e-6):  # the record has only the state with the noise
            sigmas, scales = [*sigmas, start[k]], [*scales, config['S_noise']]
            x = [*x[:-1], np.full_like(states[k], np.nan), states[k]]
        sigmas, x, scales = [*sigmas, end[k]], [*x, states[k + 1]], [*scales, 1.0]
    levels = vp_levels(sigmas)
    noise = nhwc(case.arrays['noise'])[: len(scales)] * np.reshape(scales, (-1, 1, 1, 1, 1))
    x = levels.alpha.reshape(-1, 1, 1, 1, 1) * np.stack(x)
    return Run(heun({}), levels, x, noise, has_float32_constants='as_released' in name)


def k_diffusion(sampler: Callable[[dict[str, Any]], Sampler | None]) -> Callable[..., Run | None]:
    def run(case: Case, name: str, config: dict[str, Any]) -> Run | None:
        from_table = f'{name}/eval_network_sigma' in case.arrays  # of OpenAIDenoiser, in float32
        return at_sigmas(case, name, sampler(config), has_float32_constants=from_table)

    return run


def diff_sampler(sampler: Sampler) -> Callable[..., Run | None]:
    def run(case: Case, name: str, config: dict[str, Any]) -> Run | None:
        ours = config.get('max_order', 2) == 2 and config.get('predict_x0', True)
        if not ours or config['mixture'] != 'main':  # the other mixture is thresholded
            return None
        found = at_sigmas(case, name, sampler)
        return without_last_step(found) if config.get('lower_order_final') else found

    return run


def dpm_solver(case: Case, name: str, config: dict[str, Any]) -> Run | None:
    other = config.get('correcting_x0_fn') or config.get('solver_type', 'dpmsolver') != 'dpmsolver'
    kind = config['algorithm_type'], config['method'], config['order']
    sampler = {1: DDIM(), 2: DPMSolverPP2M()}.get(config['order'])
    if other or kind[:2] != ('dpmsolver++', 'multistep') or sampler is None:
        return None
    levels = Level(*(case.arrays[f'{name}/{key}'] for key in ('t_input', 'alpha', 'sigma')))
    x = nhwc(case.arrays[f'{name}/x'])
    if config['denoise_to_zero']:
        levels = Level(*(np.append(v, clean) for v, clean in zip(levels, (0.0, 1.0, 0.0), strict=True)))
    run = Run(sampler, levels, x, np.zeros_like(x))
    return without_last_step(run) if config['lower_order_final'] and config['steps'] < 10 else run


def without_last_step(run: Run) -> Run:
    """Where that is of first order though it does not lead to the clean image."""
    return run._replace(levels=Level(*(v[:-1] for v in run.levels)), x=run.x[:-1])


def ancestral(config: dict[str, Any]) -> DDIM:
    return DDIM(eta=config['eta'])


# By the function that is the last word of a run's source; and the tolerance in float32: ten times what the
# roundings of float32 states amount to, relative to the largest state.
IMPLEMENTATIONS: dict[str, tuple[Callable[..., Run | None], float]] = {
    'edm_sampler': (edm, 1e-5),
    'ablation_sampler': (edm, 7e-5),
    'restart_sampler': (restart, 1e-5),
    'sample_euler': (k_diffusion(lambda config: None if 's_churn' in config else DDIM()), 1.5e-5),
    'sample_heun': (k_diffusion(heun), 1.5e-5),
    'sample_euler_ancestral': (k_diffusion(ancestral), 1.5e-5),
    'sample_dpmpp_2m': (k_diffusion(lambda config: DPMSolverPP2M()), 1.5e-5),
    'euler_sampler': (diff_sampler(DDIM()), 2e-5),
    'heun_sampler': (diff_sampler(Heun()), 2e-5),
    'dpm_pp_sampler': (diff_sampler(DPMSolverPP2M()), 2e-5),
    'DPM_Solver': (dpm_solver, 2e-5),
}


def states(run: Run, mixture: Mixture, dtype: type) -> np.ndarray:
    """The states of our run, [N + 1, B, H, W, C]."""
    grid, noise = as_dtype(between(run.levels), dtype), jnp.asarray(run.noise, dtype)
    denoise = mixture.denoiser(level_at=run.level_at)

    @jax.jit
    def steps(x_T):
        def record(state, prediction, transition):
            return state.x

        return sample(run.sampler, denoise, grid, lambda position, i: noise[position - 1], x_T, record=record)

    state, before = steps(jnp.asarray(run.x[0], dtype))
    return np.concatenate([before, state.x[None]])


def check_run(case: Case, name: str) -> bool:
    """Whether there is something to compare."""
    settings = case.meta['cases'][name]
    make, tolerance = IMPLEMENTATIONS.get(settings['source'].split()[-1], (None, 0.0))
    run = make and make(case, name, settings['config'])
    if not run:
        return False
    mixture = Mixture(*(case.arrays[f'model/{key}'] for key in ('weights', 'means', 'stds')))
    mixture = mixture._replace(means=nhwc(mixture.means))
    scale = np.maximum(1, np.abs(run.x).max(axis=(1, 2, 3, 4), keepdims=True))
    recorded = ~np.isnan(scale.ravel())
    for dtype, atol in ((np.float32, tolerance), (np.float64, 1e-10)):
        if dtype is np.float32 or not run.has_float32_constants:
            with jax.enable_x64(dtype is np.float64):
                ours = states(run, mixture, dtype)
            compare(
                f'states of a sampler, {np.dtype(dtype)}',
                (ours / scale)[recorded],
                (run.x / scale)[recorded],
                atol=atol,
                detail=name,
            )
    return True


def is_solvers(case: Case) -> bool:
    return 'model/stds' in case.meta.get('arrays', ()) and isinstance(case.meta.get('cases'), dict)


def check_solvers(case: Case) -> None:
    if not sum([check_run(case, name) for name in case.meta['cases']]):
        pytest.skip('runs of other samplers')


CHECKS = [Check('samplers', is_solvers, check_solvers)]
