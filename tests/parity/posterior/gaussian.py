"""Exact laws of the methods on Gaussian data with a linear measurement, and their steps as affine maps."""

import jax
import numpy as np

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import path
from diffusion_jax.diffusion.inverse import REDDiff
from diffusion_jax.diffusion.process import Transition
from diffusion_jax.diffusion.schedules import between
from tests.diffusion.mixture import vp_levels
from tests.parity.case import Case, Check
from tests.parity.compare import compare
from tests.parity.posterior.laws import Prober, propagate, simulate, whole_chain
from tests.parity.posterior.methods import Method, make_method, read_options
from tests.parity.posterior.model import Model, grid_at, model_of, moments

CHAINS = 4_000
# Keys that are no laws of a method; those of particles have a check of their own.
OTHERS = {'target', 'smc_target', 'grid'}
LAW = {'mean', 'cov', 'trace_mean', 'trace_var', 'mean_se', 'cov_se'}


def close(name: str, ours, recorded, key: str, rtol: float = 1e-6) -> None:
    scale = max(1.0, float(np.abs(recorded).max()))
    compare(
        name, np.asarray(ours) / scale, np.asarray(recorded) / scale, rtol=rtol, atol=rtol * 1e-3, detail=key
    )


def check_targets(case: Case, model: Model) -> None:
    """The closed forms of the laws that the methods should have."""
    for key in (key for key in case.arrays if key.startswith('target/')):
        _, kind, *what = key.split('/')
        if kind.startswith('reddiff_stationary_lam'):
            check_stationary(case, model, float(kind.removeprefix('reddiff_stationary_lam')), key)
            continue
        limit = kind == 'noiseless'
        weights, means, covs, log_z = noiseless(model) if limit else model.posterior(float(kind[1:]))
        mean, cov = moments(weights, means, covs)
        known = {'mean': mean, 'cov': cov, 'log_Z': log_z, 'weights': weights, 'means': means, 'covs': covs}
        close('laws given y', known[what[0]], case.arrays[key], key, 1e-8)


def noiseless(model: Model):
    """The law given A x_0 = y."""
    mean, cov, A = model.means[0], model.covs[0], model.A
    gain = cov @ A.T @ np.linalg.inv(A @ cov @ A.T)
    mean, cov = mean + gain @ (model.y - A @ mean), cov - gain @ A @ cov
    return np.ones(1), mean[None], cov[None], np.nan


def check_stationary(case: Case, model: Model, lam: float, key: str) -> None:
    """RED-diff's gradient, averaged over noise and over the grid, is 0 at this point.

    λ has sums in the record, means in our loss.
    """
    point = case.arrays[key].reshape(1, 1, 1, -1)
    sampler = REDDiff(model.measurement, lam * model.size / len(model.y))
    levels = grid_at(np.asarray(case.arrays['grid/100/t'])[::-1]).level

    @jax.jit
    @jax.vmap
    def gradient(level):
        error = model.predict(level.alpha * point, level).eps  # the mean over eps, in which it is affine
        return sampler.gradient(point, error, level)

    total = gradient(levels).mean(0)
    close('stationary points', total, np.zeros_like(point), key, 1e-5)


def jump_grid(t: np.ndarray, options: dict) -> Transition:
    """The grid of `repaint:N/L,R`, in float64."""
    text = f'repaint:{len(t)}/{int(options["jump_length"])},{int(options["jump_n_sample"])}'
    return between(path(DiffusionConfig(schedule='linear', num_timesteps=1000), text))


def annealed_grid(options: dict) -> Transition:
    """DAPS's levels: all but the last of a poly-7 grid, then the clean image."""
    number, high, low = options['annealing_levels'], options['sigma_max'], options['sigma_min']
    roots = np.linspace(high ** (1 / 7), low ** (1 / 7), number + 1)[:-1]
    return between(vp_levels([*roots**7, 0.0]))


class Laws:
    """Means and covariances after every step of some grids, from one program for each kind of method."""

    def __init__(self, model: Model, grids: dict[int, Transition]):
        joined = jax.tree.map(lambda *a: np.concatenate(a), *grids.values())
        sizes = [len(grid.level.t) for grid in grids.values()]
        self.offsets = dict(zip(grids, np.cumsum([0, *sizes])[:-1], strict=True))
        self.sizes = dict(zip(grids, sizes, strict=True))
        first = np.isin(np.arange(sum(sizes)), list(self.offsets.values()))
        self.prober, self.maps = Prober(model, joined, first), {}

    def moments(self, name: str, method: Method, n: int) -> tuple[np.ndarray, np.ndarray]:
        if name not in self.maps:
            self.maps[name] = self.prober.maps(method)
        rows = slice(self.offsets[n], self.offsets[n] + self.sizes[n])
        return propagate(jax.tree.map(lambda a: a[rows], self.maps[name]))


def keys_of_laws(case: Case) -> list[str]:
    """'method/steps' of all laws."""
    keys = {key.rsplit('/', 1)[0] for key in case.arrays if key.count('/') == 2}
    keys = {key for key in keys if key.split('/')[0] not in OTHERS}
    methods, names = case.meta['methods'], {key.split('/')[0] for key in keys}
    assert names <= set(methods), f'unknown {names - set(methods)}'
    for name in set(methods) - names:
        assert set(methods[name]['diverges_at']) == set(case.meta['Ns']), f'{name} has no law'
    return sorted(keys)


def check_laws(case: Case) -> None:
    with jax.enable_x64(True):
        model = model_of(case)
        check_targets(case, model)
        steps = sorted({int(key.split('/')[1]) for key in case.arrays if key.startswith('grid/')})
        grids = {n: grid_at(case.arrays[f'grid/{n}/t'][::-1]) for n in steps}
        for n, grid in grids.items():
            close('grids', grid.level.alpha[::-1] ** 2, case.arrays[f'grid/{n}/alpha_bar'], str(n), 1e-9)
        laws = Laws(model, grids)
        jumps: dict[str, Laws] = {}
        for key in keys_of_laws(case):
            name, n = key.split('/')[0], int(key.split('/')[1])
            options = read_options(name, case.meta['methods'][name])
            recorded = {k.split('/')[2]: v for k, v in case.arrays.items() if k.startswith(f'{key}/')}
            assert set(recorded) <= LAW, f'{key}: unknown {set(recorded) - LAW}'
            method = make_method(name, model, options)
            if name.startswith('dps_norm'):
                check_simulation(recorded, simulate(method, model, grids[n], CHAINS), key)
            elif name.startswith('daps'):
                draws = 2 if name == 'daps_ideal' else options['langevin_steps'] + 1
                check_moments(recorded, whole_chain(method, model, annealed_grid(options), draws), key)
            elif name.startswith('repaint'):
                if name not in jumps:
                    paths = {n: jump_grid(case.arrays[f'grid/{n}/t'], options) for n in steps}
                    jumps[name] = Laws(model, paths)
                means, covs = jumps[name].moments(name, method, n)
                check_moments(recorded, (means[-1], covs[-1]), key)
            else:
                means, covs = laws.moments(name, method, n)
                check_moments(recorded, (means[-1], covs[-1]), key)
                check_way(recorded, means, covs, key)


def check_moments(recorded: dict, ours: tuple, key: str) -> None:
    close('means of methods', ours[0], recorded['mean'], key)
    close('covariances of methods', ours[1], recorded['cov'], key)


def check_way(recorded: dict, means: np.ndarray, covs: np.ndarray, key: str) -> None:
    """After steps 1, N/4, N/2, 3N/4."""
    if 'trace_mean' in recorded:
        n = len(means)
        at = [0, n // 4 - 1, n // 2 - 1, 3 * n // 4 - 1]
        close('laws on the way', means[at], recorded['trace_mean'], key)
        close('laws on the way', np.diagonal(covs, axis1=1, axis2=2)[at], recorded['trace_var'], key)


def check_simulation(law: dict, x_0: np.ndarray, key: str) -> None:
    """|z| < 4.5 of all means and covariances, against a simulation with its own errors."""
    number = len(x_0)
    mean, apart = x_0.mean(0), x_0 - x_0.mean(0)
    products = apart[:, :, None] * apart[:, None]
    for name, values, ours in (('mean', x_0, mean), ('cov', products, products.mean(0))):
        error = np.hypot(values.std(0) / number**0.5, law.get(f'{name}_se', 0.0))
        z = np.abs(ours - law[name]) / error
        compare('z of simulated laws', z, np.zeros_like(z), atol=4.5, detail=f'{key}/{name}')


def check_steps(case: Case) -> None:
    with jax.enable_x64(True):
        model, arrays = model_of(case), case.arrays
        grid = grid_at(arrays['t'][::-1])
        index = len(arrays['t']) - 1 - arrays['index']
        close('grids', grid.level.alpha[::-1] ** 2, arrays['alpha_bar'], '', 1e-9)
        rows = jax.tree.map(lambda a: a[index], grid)
        prober = Prober(model, rows, np.zeros(len(index), bool))
        recorded = methods_beside(case)
        keys = {key.split('/')[0] for key in arrays if '/' in key}
        for name in sorted(keys):
            maps = prober.maps(make_method(name, model, read_options(name, recorded.get(name))))
            for what in ('F', 'c', 'Q'):
                ours, theirs = getattr(maps, what), arrays[f'{name}/{what}']
                close('steps as affine maps', ours, theirs, f'{name}/{what}', 1e-7)


def methods_beside(case: Case) -> dict:
    """The options of the methods, from the laws of the same data and measurement in the same folder."""
    for file in sorted(case.path.parent.glob('*.json')):
        other = Case(file)
        if is_laws(other) and all(np.array_equal(other.arrays[k], case.arrays[k]) for k in 'mCAy'):
            return other.meta['methods']
    return {'guided_ddim_s4_interval': {'interval_of_sigma_over_alpha': [0.3, 3.0], 'outside': 'scale 1'}}


def check_one_pixel(case: Case) -> None:
    """Keys SAMPLER/sS/N with (mean, variance), for x_0 ~ N(0, 1), y = 1 = x_0 + N(0, ½)."""
    model = Model(np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)), np.eye(1), np.ones(1), 0.5**0.5)
    config = DiffusionConfig(schedule='linear', num_timesteps=1000)
    steps = sorted({int(key.split('/')[2]) for key in case.arrays if key.count('/') == 2})
    with jax.enable_x64(True):
        laws = Laws(model, {n: between(path(config, str(n))) for n in steps})
        for key, recorded in case.arrays.items():
            sampler, scale, *n = key.split('/')
            if sampler == 'target':
                _, means, covs, _ = model.posterior(float(scale[1:]))
                close('laws given y', [means[0, 0], covs[0, 0, 0]], recorded, key, 1e-8)
                continue
            name = f'guided_{sampler}_{scale}'
            means, covs = laws.moments(name, make_method(name, model, read_options(name, None)), int(n[0]))
            close('means of methods', [means[-1, 0], covs[-1, 0, 0]], recorded, key)


def is_laws(case: Case) -> bool:
    return {'methods', 'Ns'} <= case.meta.keys() and 's_y' in case.arrays


def is_steps(case: Case) -> bool:
    return {'index', 'alpha_bar', 's_y'} <= case.arrays.keys() and 'N' in case.meta


def is_one_pixel(case: Case) -> bool:
    return 'likelihood variance 1/2' in case.meta.get('description', '') and 'Ns' not in case.meta


CHECKS = [
    Check('posterior', is_laws, check_laws, lambda case: len(case.arrays['y']) > 2),
    Check('posterior', is_steps, check_steps),
    Check('posterior', is_one_pixel, check_one_pixel),
]
