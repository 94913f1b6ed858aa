"""Reads recorded runs of public samplers as runs of ours, with variants where their releases differ."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion_jax.diffusion.grids import nearest_level
from diffusion_jax.diffusion.jumps import restarted
from diffusion_jax.diffusion.process import Level
from diffusion_jax.diffusion.samplers import (
    DDIM,
    IPNDM,
    AdamsBashforth,
    DPMSolverPP2M,
    DPMSolverPP2MSDE,
    DPMSolverPP2S,
    DPMSolverPP3MSDE,
    DPMSolverPP3S,
    Heun,
    Sampler,
    UniPC,
    UniPCBH1,
)
from diffusion_jax.diffusion.schedules import make_schedule
from tests.diffusion.mixture import vp_levels
from tests.parity.case import Case
from tests.parity.solver_run import Run, at_sigmas, nhwc, noise_of, to_zero
from tests.parity.solver_variants import NOT_OFFERED, Released3M, Released3MSDE, Taylor2S

KNOWN_KEYS = {
    *('S_churn', 'S_max', 'S_min', 'S_noise', 'T', 'afs', 'algorithm_type', 'alpha', 'coefficients'),
    *('correcting_x0_fn', 'denoise_to_zero', 'discretization', 'dynamic_thresholding_ratio', 'eta', 'grid'),
    *('lower_order_final', 'max_order', 'method', 'mixture', 'n', 'num_steps', 'order', 'predict_x0'),
    *('quantize', 'restart_gamma', 'restart_info', 'rho', 'round_sigma', 's_churn', 's_noise', 's_tmax'),
    *(
        's_tmin',
        'scaling',
        'schedule',
        'schedule_rho',
        'schedule_type',
        'sigma_max',
        'sigma_min',
        'skip_type',
    ),
    *('solver', 'solver_type', 'steps', 'thresholding_max_val', 'variant'),
}


def read_run(case: Case, name: str) -> Run | str:
    """The run as one of ours; or why there is none."""
    settings = case.meta['cases'][name]
    config = settings['config']
    unknown = set(config) - KNOWN_KEYS
    assert not unknown, f'{name}: unknown settings {sorted(unknown)}'
    source = next(word for word in reversed(settings['source'].split()) if word in IMPLEMENTATIONS)
    for excluded, reason in NOT_OFFERED:
        if excluded(source, config):
            return reason
    return IMPLEMENTATIONS[source](case, name, config)


def heun(config: dict[str, Any]) -> Heun:
    """With churn, under the names of EDM or of k-diffusion."""
    names = {'S_churn': 's_churn', 'S_min': 's_min', 'S_max': 's_max', 'S_noise': 's_noise'}
    names |= {'s_churn': 's_churn', 's_tmin': 's_min', 's_tmax': 's_max', 's_noise': 's_noise'}
    return Heun(**{ours: config[theirs] for theirs, ours in names.items() if theirs in config})


def edm(tolerance: float, case: Case, name: str, config: dict[str, Any]) -> Run | str:
    sampler = heun(config) if config.get('solver', 'heun') == 'heun' else DDIM()
    if 'S_churn' in config and isinstance(sampler, DDIM):
        return "churn with Euler's method"
    run = functools.partial(at_sigmas, case, name, lambda steps: [sampler] * steps, tolerance)
    if config['round_sigma'] == 'identity':
        return run()
    assert config['round_sigma'].startswith('iDDPMPrecond table')
    rounded = functools.partial(nearest_level, make_schedule('cosine', 1000))  # a table in float32, there
    return run(level_at=rounded, has_float32_constants=True)


def restart(case: Case, name: str, config: dict[str, Any]) -> Run:
    """Steps up are transitions of the grid, and their noise is scaled by S_noise."""
    start, end = case.arrays[f'{name}/step_from'], case.arrays[f'{name}/step_to']
    inside, main = case.arrays[f'{name}/step_restart'], case.arrays[f'{name}/sigma']
    states, scale = nhwc(case.arrays[f'{name}/x']), config.get('S_noise', 1.0)
    churn = {'s_min': config.get('S_min', 0.0), 's_max': config.get('S_max', np.inf), 's_noise': scale}
    sigmas, x, scales, samplers = [start[0]], [states[0]], [], []
    for k in range(len(start)):
        if start[k] > sigmas[-1] * (1 + 1e-6):  # the record has only the state with the noise
            sigmas, scales, samplers = [*sigmas, start[k]], [*scales, scale], [*samplers, Heun()]
            x = [*x[:-1], np.full_like(states[k], np.nan), states[k]]
        gamma = config['restart_gamma'] * len(start) if inside[k] else 0.0
        samplers.append(Heun(gamma, **churn) if gamma else Heun())
        sigmas, x, scales = [*sigmas, end[k]], [*x, states[k + 1]], [*scales, 1.0]
    released = 'as_released' in name or 'as released' in str(case.meta['cases'][name].get('notes'))
    ours = restarted_like(main, config['restart_info'])
    np.testing.assert_allclose(ours, sigmas, rtol=1e-6 if released else 1e-12, atol=1e-15)
    levels, noise = vp_levels(sigmas), noise_of(case, name, len(scales))
    noise = noise * np.reshape(scales, (-1, 1, 1, 1, 1, 1))
    x = levels.alpha.reshape(-1, 1, 1, 1, 1) * np.stack(x)
    return Run(samplers, levels, x, noise, 1e-5, has_float32_constants='as_released' in name)


def restarted_like(main: np.ndarray, info: dict[str, list[float]]) -> np.ndarray:
    """The σ of `restarted`: its steps are one less than their levels, and it ends before σ = 0."""
    last: dict[int, tuple[float, ...]] = {}
    for count, times, low, high in info.values():  # at one node the last interval replaces the others
        last[int(np.argmin(np.abs(main - low)))] = (low, high, count - 1, times)
    return np.append(restarted(main[:-1], list(last.values())), 0.0)


def k_diffusion(sampler: Callable[[dict[str, Any]], Sampler], **fields: Any) -> Callable[..., Run]:
    def run(case: Case, name: str, config: dict[str, Any]) -> Run:
        from_table = f'{name}/eval_network_sigma' in case.arrays  # of OpenAIDenoiser, in float32
        made = sampler(config)
        scale = 1.0 if isinstance(made, Heun) else config.get('s_noise', 1.0)
        found = at_sigmas(
            case, name, lambda steps: [made] * steps, 1.5e-5, s_noise=scale, has_float32_constants=from_table
        )
        return without_last_step(found) if isinstance(made, AdamsBashforth) else found

    return run


def without_last_step(run: Run) -> Run:
    """Where that is of high order though it leads to the clean image."""
    return run._replace(samplers=run.samplers[:-1], levels=Level(*(v[:-1] for v in run.levels)), x=run.x[:-1])


def sde_2m(config: dict[str, Any]) -> Sampler:
    kinds = {'midpoint': DPMSolverPP2MSDE, 'heun': functools.partial(DPMSolverPP3MSDE, 2)}
    return kinds[config.get('solver_type', 'midpoint')](eta=config['eta'])


def orders(most: int, steps: int, lowered: bool) -> list[int]:
    """The order of each step, where it falls towards the end, or not."""
    return [min(most, steps - k) if lowered else most for k in range(steps)]


def multistep(kind: Callable[..., Sampler], most: int, steps: int, lowered: bool) -> list[Sampler]:
    return [kind(max_order=order) for order in orders(most, steps, lowered)]


def dpmpp(most: int, steps: int, lowered: bool, taylor: bool = False) -> list[Sampler]:
    """1M (DDIM), 2M or 3M."""
    if most == 3 or taylor:
        kind = functools.partial(Released3MSDE, eta=0.0) if taylor else Released3M
        return multistep(kind, most, steps, lowered)
    return [DPMSolverPP2M() if order == 2 else DDIM() for order in orders(most, steps, lowered)]


def diff_sampler(make: Callable[..., list[Sampler]], tolerances: dict[int, float]) -> Callable[..., Run]:
    def run(case: Case, name: str, config: dict[str, Any]) -> Run:
        order, lowered = config.get('max_order', 1), config.get('lower_order_final', False)
        if order == 4:
            assert make is not dpmpp
        fields: dict[str, Any] = {'percentile': 0.995} if config.get('predict_x0') else {}
        variant = {'variant': config['variant']} if 'variant' in config else {}
        kinds = functools.partial(make, order, lowered=lowered, **variant)
        found = at_sigmas(case, name, lambda steps: kinds(steps=steps), tolerances.get(order, 2e-5), **fields)
        return found._replace(corrected=config['num_steps'] - 1)

    return run


def simple(kind: Callable[[], Sampler]) -> Callable[..., list[Sampler]]:
    return lambda most, steps, lowered: [kind()] * steps


def unipc(most: int, steps: int, lowered: bool, variant: str) -> list[Sampler]:
    return multistep({'bh1': UniPCBH1, 'bh2': UniPC}[variant], most, steps, lowered)


def at_timesteps(case: Case, name: str, config: dict[str, Any], samplers: list[Sampler], tolerance: float):
    levels = Level(*(case.arrays[f'{name}/{key}'] for key in ('t_input', 'alpha', 'sigma')))
    x, percentile = nhwc(case.arrays[f'{name}/x']), None
    if config['denoise_to_zero']:
        levels, samplers = to_zero(levels), [*samplers, DDIM()]
    if config.get('correcting_x0_fn'):
        assert config['correcting_x0_fn'] == 'dynamic_thresholding'
        assert config.get('thresholding_max_val', 1.0) == 1.0
        percentile = config['dynamic_thresholding_ratio']
    noise = np.zeros((len(samplers), 1, 1, 1, 1, 1))
    return Run(samplers, levels, x, noise, tolerance, config['steps'], percentile)


def dpm_solver(case: Case, name: str, config: dict[str, Any]) -> Run:
    steps, order, taylor = config['steps'], config['order'], config.get('solver_type') == 'taylor'
    if config['method'] == 'multistep':
        lowered = config['lower_order_final'] and steps < 10  # 15 in its documentation
        return at_timesteps(case, name, config, dpmpp(order, steps, lowered, taylor), 2e-5)
    assert config['method'] in ('singlestep', 'singlestep_fixed')
    lam, inner = (case.arrays[f'{name}/{key}'] for key in ('lam', 'eval_sigma'))
    inner = np.log(case.arrays[f'{name}/eval_alpha'] / inner)
    samplers, position = [], 0
    for k, number in enumerate(case.meta['cases'][name]['orders']):
        r = [(inner[position + i] - lam[k]) / (lam[k + 1] - lam[k]) for i in range(1, number)]
        position += number
        kinds = {1: DDIM, 2: Taylor2S if taylor else DPMSolverPP2S, 3: DPMSolverPP3S}
        samplers.append(kinds[number](*r))
    return at_timesteps(case, name, config, samplers, 5e-6)


def unipc_release(case: Case, name: str, config: dict[str, Any]) -> Run:
    order, steps = config['order'], config['steps']
    samplers = unipc(order, steps, config['lower_order_final'], config['variant'])
    return at_timesteps(case, name, config, samplers, {3: 3e-4}.get(order, 7e-5))


AB_TOLERANCES = {3: 5e-5, 4: 3e-4}
# By the function that made the run. Tolerances in float32: ten times what the roundings of float32 states
# amount to, relative to the largest state.
IMPLEMENTATIONS: dict[str, Callable[..., Run | str]] = {
    'edm_sampler': functools.partial(edm, 1e-5),
    'ablation_sampler': functools.partial(edm, 7e-5),
    'restart_sampler': restart,
    'sample_euler': k_diffusion(lambda config: DDIM()),
    'sample_heun': k_diffusion(heun),
    'sample_euler_ancestral': k_diffusion(lambda config: DDIM(eta=config['eta'])),
    'sample_dpmpp_2m': k_diffusion(lambda config: DPMSolverPP2M()),
    'sample_dpmpp_2m_sde': k_diffusion(sde_2m),
    'sample_dpmpp_3m_sde': k_diffusion(lambda config: Released3MSDE(eta=config['eta'])),
    'sample_lms': k_diffusion(lambda config: AdamsBashforth(config['order'])),
    'euler_sampler': diff_sampler(simple(DDIM), {}),
    'heun_sampler': diff_sampler(simple(Heun), {}),
    'ipndm_sampler': diff_sampler(functools.partial(multistep, IPNDM), AB_TOLERANCES),
    'ipndm_v_sampler': diff_sampler(functools.partial(multistep, AdamsBashforth), AB_TOLERANCES),
    'deis_sampler': diff_sampler(functools.partial(multistep, AdamsBashforth), AB_TOLERANCES),
    'dpm_pp_sampler': diff_sampler(dpmpp, {}),
    'unipc_sampler': diff_sampler(unipc, {}),
    'DPM_Solver': dpm_solver,
    'UniPC': unipc_release,
}
for excluded in ('sample_dpm_2', 'dpm_2_sampler', 'sample_dpmpp_2s_ancestral', 'sample_dpmpp_sde'):
    IMPLEMENTATIONS[excluded] = lambda case, name, config: 'not offered'
