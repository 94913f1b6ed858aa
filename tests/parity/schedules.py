"""Checks of schedules and of their respacing, in float64."""

import numpy as np
import pytest

from diffusion_jax.diffusion.schedules import (
    Schedule,
    float64_transitions,
    make_schedule,
    respaced_timesteps,
)
from tests.parity.case import Case, Check
from tests.parity.compare import compare


def schedule_arrays(schedule: Schedule) -> dict[str, np.ndarray]:
    """Our float64 constants under the names of the release."""
    table = float64_transitions(schedule)
    level = table.level
    return {
        'betas': schedule.betas,
        'alphas_cumprod': schedule.alpha_bar,
        'alphas_cumprod_prev': table.next.alpha**2,
        'alphas_cumprod_next': np.append(level.alpha[1:] ** 2, 0.0),
        'sqrt_alphas_cumprod': level.alpha,
        'sqrt_one_minus_alphas_cumprod': level.sigma,
        'log_one_minus_alphas_cumprod': np.log(1 - schedule.alpha_bar),
        'sqrt_recip_alphas_cumprod': 1 / level.alpha,
        'sqrt_recipm1_alphas_cumprod': level.sigma / level.alpha,
        'posterior_variance': np.append(0.0, np.exp(table.log_posterior[1:])),
        'posterior_log_variance_clipped': table.log_posterior,
        'posterior_mean_coef1': table.mean_x0,
        'posterior_mean_coef2': table.mean_xt,
    }


def is_schedules(case: Case) -> bool:
    return any(key.endswith('/alphas_cumprod') for key in case.meta.get('arrays', ()))


def check_schedules(case: Case) -> None:
    for key, expected in case.arrays.items():
        process, name = key.split('/')
        schedule, num_timesteps = process.rsplit('_', 1)
        actual = schedule_arrays(make_schedule(schedule, int(num_timesteps)))[name]
        compare('schedule', actual, expected, rtol=1e-10, detail=key)


def is_respacing(case: Case) -> bool:
    cases = case.meta.get('config', {}).get('cases', [])
    return bool(cases) and all('section_counts' in setting for setting in cases)


def check_respacing(case: Case) -> None:
    for setting in case.meta['config']['cases']:
        num_timesteps, spec = setting['num_timesteps'], setting['section_counts']
        spec = ','.join(map(str, spec)) if isinstance(spec, list) else spec or ''
        if 'error' in setting:
            with pytest.raises(ValueError):
                respaced_timesteps(num_timesteps, spec)
        else:
            assert respaced_timesteps(num_timesteps, spec) == setting['timesteps'], spec
    for key, expected in case.arrays.items():
        num_timesteps, spec, rest = key.split('|')
        schedule, name = rest.split('/')
        process = make_schedule(
            schedule, int(num_timesteps), spec.strip('[]').replace(' ', '').removeprefix('None')
        )
        compare('respaced schedule', schedule_arrays(process)[name], expected, rtol=1e-10, detail=key)


CHECKS = [
    Check('schedules', is_schedules, check_schedules),
    Check('schedules', is_respacing, check_respacing),
]
