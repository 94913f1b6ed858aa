"""Samplers against public implementations: runs with the same start, noise and grid on an exact denoiser.

Recorded images are [..., C, H, W], ours [..., H, W, C]. Where a record has x̄ = x_0 + σ·eps, ours is alpha·x̄.
`solver_runs` reads the records; `NOT_OFFERED` in `solver_variants` lists the methods that are not compared.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion.guidance import DynamicThreshold, Models
from diffusion_jax.diffusion.samplers import UniPC
from diffusion_jax.diffusion.samplers.loop import advance
from diffusion_jax.diffusion.schedules import between
from tests.diffusion.mixture import Mixture, as_dtype
from tests.parity.case import Case, Check
from tests.parity.compare import compare
from tests.parity.solver_run import Run, mixture_of
from tests.parity.solver_runs import read_run


@functools.partial(jax.jit, static_argnames='level_at')
def one_step(sampler, mixture, percentile, transition, noise, carry, level_at):
    """The carry after one transition, [1]."""
    denoise = mixture.denoiser(level_at=level_at)
    if percentile is not None:
        denoise = DynamicThreshold(percentile).wrap(denoise, Models())
    return advance(sampler, denoise, transition, lambda position, i: noise[i], carry, 0, 1)


def states(run: Run, mixture: Mixture, dtype: type) -> np.ndarray:
    """The states of our run, [N + 1, B, H, W, C]; those of UniPC after their correction."""
    grid, noise = as_dtype(between(run.levels), dtype), np.asarray(run.noise, dtype)
    x, carry, last = [jnp.asarray(run.x[0], dtype)], None, None
    for k, sampler in enumerate(run.samplers):
        if type(sampler) is not last:
            carry, last = (sampler.init(x[-1]), ()), type(sampler)
        row = jax.tree.map(lambda a, k=k: a[k : k + 1], grid)
        carry = one_step(sampler, mixture, run.percentile, row, noise[k], carry, run.level_at)
        if isinstance(sampler, UniPC) and 0 < k < run.corrected:
            x[-1] = carry[0].last.x
        x.append(carry[0].x)
    return np.stack(x)


def check_run(case: Case, name: str) -> str | None:
    """Why there is nothing to compare, if so."""
    run = read_run(case, name)
    if isinstance(run, str):
        return run
    mixture = mixture_of(case, case.meta['cases'][name]['config'].get('mixture', 'main'))
    scale = np.maximum(1, np.abs(run.x).max(axis=(1, 2, 3, 4), keepdims=True))
    recorded = ~np.isnan(scale.ravel())
    for dtype, atol in ((np.float32, run.tolerance), (np.float64, 1e-10)):
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
    return None


def is_solvers(case: Case) -> bool:
    runs = case.meta.get('cases')
    return (
        'model/stds' in case.meta.get('arrays', ())
        and isinstance(runs, dict)
        and all('nfe' in run and 'dp_list' not in run for run in runs.values())
    )


def check_solvers(case: Case) -> None:
    skipped = [check_run(case, name) for name in case.meta['cases']]
    if all(skipped):
        pytest.skip('; '.join(sorted(set(filter(None, skipped)))))


CHECKS = [Check('samplers', is_solvers, check_solvers, slow=lambda case: len(case.meta['cases']) > 25)]
