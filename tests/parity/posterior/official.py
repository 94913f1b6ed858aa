"""Recorded runs of the authors' implementations: the same start and noise, in float64."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.inverse import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    DiffPIR,
    PiGDM,
    REDDiff,
    RePaint,
)
from diffusion_jax.diffusion.jumps import repainted
from diffusion_jax.diffusion.process import Level
from diffusion_jax.diffusion.samplers import Sampler
from diffusion_jax.diffusion.schedules import between, make_schedule, row, to_clean
from tests.diffusion.mixture import vp_levels
from tests.parity.case import Case, Check
from tests.parity.posterior.model import Model, grid_at, model_of
from tests.parity.posterior.released import (
    AddedGradient,
    DPSWithDDIM,
    LikelihoodTwice,
    ReleasedStart,
    Simplified,
)
from tests.parity.posterior.replay import MODEL, images, knows, one_draw, run, same, travel, with_noise


def check_dps(case: Case, model: Model) -> None:
    knows(case, {'scale'}, {'x_T', 'noise', 't', 'x_t', 'x_final', 'norm'})
    arrays, sampler = case.arrays, DPS(model.measurement, case.meta['scale'])
    x, x_0 = run(sampler, model, grid_at(arrays['t']), arrays['x_T'], one_draw(arrays['noise']))
    same('x_t', x[:-1], arrays['x_t'], case)
    same('x_final', x[-1], arrays['x_final'], case)
    same('norm', np.linalg.norm(model.y - x_0 @ model.A.T, axis=-1), arrays['norm'], case)


def check_ddnm(case: Case, model: Model) -> None:
    options = {'eta', 'travel_length', 'travel_repeat', 's_y_used', 'clip'}
    knows(case, options, {'x_T', 'noise', 't', 'x_t', 'x_final', 'x0_prediction_final'})
    arrays, meta = case.arrays, case.meta
    assert meta['clip'] == 'none'
    noise = float(meta['s_y_used'])
    measurement = with_noise(model, noise)
    sampler = DDRM(measurement, meta['eta'], given_y=False) if noise else DDNM(measurement, meta['eta'])
    if meta['travel_length'] > 1 or meta['travel_repeat'] > 1:
        x, last, x_0 = travel(sampler, model, case)
    else:
        path, x_0 = run(sampler, model, grid_at(arrays['t']), arrays['x_T'], one_draw(arrays['noise']))
        x, last, x_0 = path[:-1], path[-1], x_0[-1]
    same('x_t', x, arrays['x_t'], case)
    same('x_final', last, arrays['x_final'], case)
    same('x_0', x_0, arrays['x0_prediction_final'], case)


def check_simplified(case: Case, model: Model) -> None:
    knows(case, {'eta', 's_y_used'}, {'x_T', 'noise', 't', 'x_t', 'x_final'})
    arrays, meta = case.arrays, case.meta
    sampler = Simplified(with_noise(model, meta['s_y_used']), meta['eta'], released=True)
    x, _ = run(sampler, model, grid_at(arrays['t']), arrays['x_T'], one_draw(arrays['noise']))
    same('x_t', x[:-1], arrays['x_t'], case)
    same('x_final', x[-1], arrays['x_final'], case)


def check_ddrm(case: Case, model: Model) -> None:
    """Draws are in the recorded basis V; for noiseless measurements the release's last step differs."""
    arrays, meta = case.arrays, case.meta
    draws = {key for key in arrays if key.startswith('noise/')}
    knows(
        case,
        {'eta', 'etab', 's_y_used'},
        {'z_T', 't', 'x_t', 'x0_prediction', 'svd/U', 'svd/s', 'svd/V', *draws},
    )
    grid, noise = grid_at(arrays['t']), float(meta['s_y_used'])
    values = np.zeros(model.size)
    values[: len(arrays['svd/s'])] = np.where(arrays['svd/s'] < 1e-3, 0, arrays['svd/s'])
    basis = np.asarray(arrays['svd/V'], float)
    fresh = []
    for k, (alpha, sigma) in enumerate(zip(grid.next.alpha, grid.next.sigma, strict=True)):
        missing, after, before = (np.asarray(arrays[f'noise/{3 * k + j:03d}'], float) for j in range(3))
        z = np.zeros_like(missing)
        is_after = (values > 0) & (sigma / alpha * values < noise)
        is_before = (values > 0) & (sigma / alpha * values > noise)
        z[:, values == 0] = missing[:, values == 0]
        z[:, is_after] = after if after.shape[1] == is_after.sum() else after[:, is_after]
        z[:, is_before] = before[:, is_before[: before.shape[1]].nonzero()[0]]
        fresh.append(z @ basis.T)
    sampler = ReleasedStart(with_noise(model, noise), meta['eta'], meta['etab'])
    start = arrays['z_T'] @ basis.T
    x, x_0 = run(sampler, model, grid, start, one_draw(np.stack(fresh)))
    first = sampler.first(images(start), row(grid, 0).level)
    same('start', np.asarray(first)[:, 0, 0], arrays['x_t'][0], case)
    same('x_0', x_0, arrays['x0_prediction'], case)
    same('x_t', x[1:-1], arrays['x_t'][1:-1], case)
    same('x_final', x[-1] if noise else x_0[-1], arrays['x_t'][-1], case)


def check_diffpir(case: Case, model: Model) -> None:
    knows(case, {'lam', 'zeta', 'iter_num', 'skip_type', 'eta'}, {'noise', 't', 'x_t', 'x_loop_end', 'seq'})
    arrays, meta = case.arrays, case.meta
    assert meta['eta'] == 0
    sampler = DiffPIR(model.measurement, meta['lam'], meta['zeta'])
    grid = grid_at(arrays['t'], end=False)
    x, _ = run(sampler, model, grid, arrays['noise'][0], one_draw(arrays['noise'], 2, 2))
    same('x_t', x, arrays['x_t'], case)
    same('x_loop_end', x[-1], arrays['x_loop_end'], case)


def check_repaint(case: Case, model: Model) -> None:
    knows(
        case,
        {'jump_length', 'jump_n_sample', 'gt'},
        {'x_T', 'noise', 'times', 't', 'network_input', 'sample'},
    )
    arrays, meta = case.arrays, case.meta
    timesteps = np.unique(arrays['t'])
    path = repainted(len(timesteps), meta['jump_length'], meta['jump_n_sample'])
    np.testing.assert_array_equal([*path, -1], arrays['times'])
    grid = grid_at(timesteps[path])
    up = np.zeros(len(path), bool) if grid.renoise is None else grid.renoise
    np.testing.assert_array_equal(timesteps[path][~up], arrays['t'])
    order, at = np.zeros((len(path), 2), int), 0
    for k in range(len(path)):
        order[k], at = (at, at + 1), at + (1 if up[k] or k == 0 else 2)
    noise = images(arrays['noise'])
    order = jnp.asarray(np.minimum(order, len(noise) - 1))
    sampler = RePaint(model.measurement)
    x, x_0 = run(sampler, model, grid, arrays['x_T'], lambda position, i: noise[order[position - 1, i]])
    same('sample', x[1:][~up], arrays['sample'], case)
    levels = Level(*(np.asarray(v)[~up] for v in grid.level))
    seen = images(arrays['network_input'])
    for k in range(len(levels.t)):
        expected = model.predict(seen[k], Level(*(v[k] for v in levels))).x_0
        same('network_input', x_0[~up][k], np.asarray(expected)[:, 0, 0], case)


def check_reddiff(case: Case, model: Model) -> None:
    knows(case, {'weights', 'grad_term_weight', 'lr'}, {'noise', 't', 'x_t', 'mu', 'mu_final'})
    arrays, meta = case.arrays, case.meta
    sampler = REDDiff(model.measurement, meta['grad_term_weight'], meta['lr'])
    grid = grid_at(arrays['t'])
    mu, _ = run(sampler, model, grid, arrays['x_t'][0], one_draw(arrays['noise'], 2, 1))
    same('mu', mu[1:], arrays['mu'], case)
    same('mu_final', mu[-1], arrays['mu_final'], case)
    alpha, sigma = (np.reshape(v, (-1, 1, 1)) for v in (grid.level.alpha, grid.level.sigma))
    same('x_t', alpha * mu[:-1] + sigma * arrays['noise'][1::2], arrays['x_t'], case)


def check_daps(case: Case, model: Model) -> None:
    options = {'N', 'hi', 'lo', 'ode', 'lo_ode', 'K', 'lr', 'ratio', 'tau'}
    knows(case, options, {'x_T', 'noise', 'sigma', 'x_t_next', 'x0hat', 'x0y', 'x_final'})
    arrays, meta = case.arrays, case.meta
    steps = meta['K']
    how = meta['lr'], meta['ratio'], meta['lo_ode'], meta['ode'], steps
    roots = np.linspace(meta['hi'] ** (1 / 7), meta['lo'] ** (1 / 7), meta['N'] + 1)[:-1]
    same('sigma', np.append(roots**7, 0.0), arrays['sigma'], case)
    levels, noise = vp_levels([*roots**7, 0.0]), images(arrays['noise'])
    grid = between(levels)

    def noise_at(position, i):
        return noise[(position - 1) * (steps + 1) + (steps if isinstance(i, int) and i == 0 else i - 1)]

    sampler = LikelihoodTwice(model.measurement, *how)
    assert isinstance(sampler, DAPS) and meta['tau'] == '= s_y'
    x, _ = run(sampler, model, grid, levels.alpha[0] * arrays['x_T'], noise_at)
    x = x / levels.alpha.reshape(-1, 1, 1)
    same('x_t_next', x[1:], arrays['x_t_next'], case)
    same('x_final', x[-1], arrays['x_final'], case)
    before = np.concatenate([arrays['x_T'][None], arrays['x_t_next'][:-1]])
    for k, sigma in enumerate(roots**7):
        x_0, _ = sampler._solve_ode(model.denoiser(), images(before[k]), (), sigma)
        same('x0hat', np.asarray(x_0)[:, 0, 0], arrays['x0hat'][k], case)
        rate = meta['lr'] * (1 + k / (meta['N'] + 1) * (meta['ratio'] - 1))
        x_0 = sampler._langevin(images(arrays['x0hat'][k]), sigma, rate, lambda i: noise_at(k + 1, i))  # noqa: B023
        same('x0y', np.asarray(x_0)[:, 0, 0], arrays['x0y'][k], case)


def check_reddiff_repository(case: Case, model: Model) -> None:
    """ΠGDM, noise-free, and DPS; both start from α·A⁺y + σ·noise."""
    knows(case, {'s', 'grad_term_weight', 'eta'}, {'noise', 't', 'x'})
    arrays, meta = case.arrays, case.meta
    levels = jax.tree.map(lambda a: a[arrays['t']], make_schedule('linear', 1000).level)
    grid, noise = to_clean(levels), arrays['noise']
    np.testing.assert_array_equal(sorted(meta['s']), sorted(arrays['t']))
    start = np.asarray(with_noise(model, 0.0).projected(jnp.zeros((1, 1, 1, model.size))))[:, 0, 0]
    start = levels.alpha[0] * start + levels.sigma[0] * noise[0]
    same('x_T', start, arrays['x'][0], case)
    weight, guidance = meta['grad_term_weight'], ()
    if case.meta['description'].startswith('PiGDM'):
        sampler: Sampler = AddedGradient(meta['eta'], released=True)
        guidance = (PiGDM(with_noise(model, 0.0), weight),)
    else:
        sampler = DPSWithDDIM(model.measurement, weight, meta['eta'])
    x, _ = run(sampler, model, grid, start, one_draw(noise[1:]), guidance)
    same('x', x, arrays['x'], case)


# By the options and arrays of a record.
KINDS: list[tuple[set[str], set[str], Callable[[Case, Model], None]]] = [
    ({'scale'}, {'norm'}, check_dps),
    ({'travel_length', 'eta'}, {'x0_prediction_final'}, check_ddnm),
    ({'etab', 's_y_used'}, {'svd/V'}, check_ddrm),
    ({'eta', 's_y_used'}, {'x_t', 'x_T', 'noise'}, check_simplified),
    ({'lam', 'zeta', 'skip_type'}, {'x_loop_end'}, check_diffpir),
    ({'jump_length', 'gt'}, {'network_input'}, check_repaint),
    ({'grad_term_weight', 'lr'}, {'mu'}, check_reddiff),
    ({'ode', 'lo_ode', 'K'}, {'x0hat'}, check_daps),
    ({'grad_term_weight', 's'}, {'x'}, check_reddiff_repository),
]


def kind_of(case: Case) -> Callable[[Case, Model], None] | None:
    for options, arrays, check in KINDS:
        if options <= case.meta.keys() and (MODEL | arrays) <= case.arrays.keys():
            return check
    return None


def check_official(case: Case) -> None:
    check = kind_of(case)
    assert check is not None
    with jax.enable_x64(True):
        check(case, model_of(case))


CHECKS = [Check('posterior', lambda case: kind_of(case) is not None, check_official)]
