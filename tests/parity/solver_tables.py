"""Tables and grids of public samplers, exact solutions of the ODE, and grids chosen by GITS."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import level_at, make_grid, nearest_level
from diffusion_jax.diffusion.samplers import IPNDM, DPMSolverPP3S, sample
from diffusion_jax.diffusion.schedules import between, karras, make_schedule
from diffusion_jax.diffusion.trajectory_grids import cheapest_path, cost_matrix
from tests.diffusion.mixture import Mixture, vp_levels
from tests.parity.case import Case, Check
from tests.parity.compare import compare
from tests.parity.solver_run import mixture_of, nhwc

# Arrays of tables that are not compared, by the beginning or the end of their name, and why.
NOT_COMPARED = {
    'is rounded to float32 there': ('_float32', '_float32_table'),
    'follows from the timestep': ('query_index', 'query_rounded'),
    'rounds in log σ; here and in EDM in σ': ('t_quantized',),
    'cuts the cosine schedule, or interpolates t in log alpha': ('dpm_solver/', 'unipc/'),
    'grids that are not offered': (
        *('karras_rho5_', 'exponential_', 'polyexponential_', 'vp_'),
        *('polynomial_rho3_', 'logsnr_', 'time_uniform_rho'),
    ),
    'the time of another process': ('c_noise',),
}


class Arrays(dict):
    """Arrays by name, which knows those that were read."""

    def __init__(self, arrays):
        super().__init__(arrays)
        self.read: set[str] = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)


def is_tables(case: Case) -> bool:
    runs = case.meta.get('cases')
    return isinstance(runs, dict) and any(key.endswith('/query_rounded') for key in case.arrays)


def check_tables(case: Case) -> None:
    excluded = tuple(end for ends in NOT_COMPARED.values() for end in ends)
    for name, settings in case.meta['cases'].items():
        prefix = f'{name}/'
        found = Arrays(
            (key.removeprefix(prefix), a) for key, a in case.arrays.items() if key.startswith(prefix)
        )
        kind = next(word for word in KINDS if word in settings['source'] or word in name)
        KINDS[kind](name, settings, found)
        left = [
            key
            for key in found
            if not (key in found.read or key.startswith(excluded) or key.endswith(excluded))
        ]
        assert not left, f'{name}: {left} are not compared'


def compared(name: str, ours, recorded, rtol: float = 1e-11, atol: float = 0.0) -> None:
    compare('tables and grids of samplers', ours, recorded, rtol=rtol, atol=atol, detail=name)


def sigmas_of(schedule: str) -> np.ndarray:
    return np.exp(-make_schedule(schedule, 1000).log_snr / 2)


def rounding(name: str, settings, arrays) -> None:
    """EDM's rounding to the nearest σ; below half of the lowest, its table has σ = 0, no timestep."""
    schedule = settings['config'].get('schedule', 'cosine')
    if 'u_float64' in arrays:
        compared(name, sigmas_of(schedule), arrays['u_float64'][-2::-1])
    t = nearest_level(make_schedule(schedule, 1000), -2 * np.log(arrays['query_sigma'])).t
    error = np.abs(t - np.maximum(arrays['query_c_noise'], 0))
    assert (error[:-10] == 0).all() and (error[-10:] <= 1).all(), f'{name}: {error}'  # the last are midpoints


def guided_diffusion(name: str, settings, arrays) -> None:
    for schedule in ('linear', 'cosine'):
        compared(name, sigmas_of(schedule), arrays[f'{schedule}_sigma'])
        compared(name, make_schedule(schedule, 1000).alpha_bar, arrays[f'{schedule}_alpha_bar'])


def k_diffusion(name: str, settings, arrays) -> None:
    schedule = make_schedule(settings['config']['schedule'], settings['config']['T'])
    compared(name, level_at(schedule, -2 * np.log(arrays['query_sigma'])).t, arrays['t'], atol=1e-9)
    log_snr = np.interp(arrays['query_t'], schedule.t, schedule.log_snr)
    compared(name, np.exp(-log_snr / 2), arrays['sigma'])
    for key in (key for key in arrays if key.startswith('get_sigmas_')):
        config = DiffusionConfig(schedule=settings['config']['schedule'])
        ours = make_grid(config, f'uniform:{len(arrays[key]) - 1}').next.edm_sigma
        compared(name, ours[:-1], arrays[key][1:-1], rtol=1e-5)


def vp(name: str, settings, arrays) -> None:
    """Only grids of equal steps in t are the same here."""
    config = DiffusionConfig(schedule=settings['config']['schedule'])
    total = {'linear': ('dpm_solver', 'unipc'), 'cosine': ('unipc',)}[config.schedule]  # one cuts the cosine
    for key in arrays:
        release, _, kind = key.partition('/')
        if kind.startswith('time_uniform') and release in total:
            t = arrays[key]
            ours = make_grid(config, f'uniform:{len(t)}').level.t
            compared(name, ours, (t - 1 / 1000) * 1000, rtol=1e-6, atol=1e-4)


def karras_grids(name: str, settings, arrays) -> None:
    for key in arrays:
        if key.startswith(('karras_', 'polynomial_rho7_')) and 'rho5' not in key:
            recorded = arrays[key]
            ends = recorded[recorded > 0][[0, -1]]
            number = np.count_nonzero(recorded)
            compared(name, karras(*ends, number), recorded[:number])


KINDS = {
    'iDDPMPrecond': rounding,
    'get_named_beta_schedule': guided_diffusion,
    'DiscreteSchedule': k_diffusion,
    'OpenAIDenoiser': k_diffusion,
    'NoiseScheduleVP': vp,
    'get_sigmas_': karras_grids,
    'get_schedule': karras_grids,
    'CGPrecond': lambda name, settings, arrays: None,  # the time of another process
}


def is_exact(case: Case) -> bool:
    runs = case.meta.get('cases')
    return isinstance(runs, dict) and all('agreement' in run for run in runs.values())


@jax.jit
def end(mixture: Mixture, grid, x):
    return sample(DPMSolverPP3S(), mixture.denoiser(), grid, lambda position, i: jnp.zeros_like(x), x)[0].x


def check_exact(case: Case, steps: int = 400) -> None:
    """3S in many steps from each recorded state to the next."""
    mixture = mixture_of(case, 'main')
    for name in case.meta['cases']:
        x, sigmas = nhwc(case.arrays[f'{name}/x']), case.arrays[f'{name}/sigma']
        if f'{name}/alpha' in case.arrays:
            sigmas = sigmas / case.arrays[f'{name}/alpha']
        else:
            x = x * vp_levels(sigmas).alpha.reshape(-1, 1, 1, 1, 1)
        with jax.enable_x64(True):
            for k in range(len(sigmas) - 1):
                grid = between(vp_levels(np.geomspace(sigmas[k], sigmas[k + 1], steps + 1)))
                ours = end(mixture, grid, jnp.asarray(x[k], np.float64))
                compare('exact solutions of the ODE', ours, x[k + 1], atol=1e-9, detail=f'{name} {k}')


def is_chosen_grids(case: Case) -> bool:
    runs = case.meta.get('cases')
    return isinstance(runs, dict) and all('dp_list' in run for run in runs.values())


@jax.jit
def trajectory(mixture: Mixture, grid, x, sampler):
    def record(state, prediction, transition):
        return state.x, prediction.eps

    return sample(sampler, mixture.denoiser(), grid, lambda position, i: jnp.zeros_like(x), x, record=record)


def check_chosen_grids(case: Case) -> None:
    mixture = mixture_of(case, 'main')
    for name, run in case.meta['cases'].items():
        config, arrays = run['config'], {key.removeprefix(f'{name}/'): a for key, a in case.arrays.items()}
        assert config['solver_tea'] == 'ipndm' and not config['afs'], name
        sigmas = arrays['sigma_teacher']
        with jax.enable_x64(True):
            x, eps = teacher(mixture, sigmas, nhwc(arrays['latents']), config['max_order'])
            cost = cost_matrix(x, eps, sigmas, config['metric'])
            compare('cost of GITS', cost, arrays['cost'], rtol=1e-9, atol=1e-11, detail=name)
            path = cheapest_path(cost, config['num_steps'], config['coeff'])
            assert path == arrays['dp_list'].tolist(), f'{name}: {path}, recorded {arrays["dp_list"]}'
            compare('nodes of GITS', sigmas[path], arrays['sigma'], rtol=1e-12, detail=name)
            student, _ = teacher(mixture, sigmas[path], nhwc(arrays['x_T']), config['max_order'])
            compare('states of a sampler, float64', student, nhwc(arrays['x']), atol=1e-9, detail=name)


def teacher(mixture: Mixture, sigmas: np.ndarray, noise: np.ndarray, order: int):
    """The states x̄ and the eps at each σ."""
    levels = vp_levels(np.append(sigmas, 0.0))
    x = jnp.asarray(levels.sigma[0] * noise, np.float64)  # alpha·x̄, x̄ = σ·noise
    _, (x, eps) = trajectory(mixture, between(levels), x, IPNDM(order))
    return np.asarray(x) / levels.alpha[:-1].reshape(-1, 1, 1, 1, 1), np.asarray(eps)


CHECKS = [
    Check('samplers', is_tables, check_tables),
    Check('samplers', is_exact, check_exact),
    Check('samplers', is_chosen_grids, check_chosen_grids),
]
