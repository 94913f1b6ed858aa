"""Sequential Monte Carlo: exact targets of the chain, and recorded runs of TDS and of FK steering.

The target of N steps is the law of the unguided chain times p(y|x)^s. It is compared within the Monte Carlo
error of independent populations.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.diffusion.guidance import classifier_guidance
from diffusion_jax.diffusion.particles import POTENTIALS, Lineage, effective_sample_size, remainder, take
from diffusion_jax.diffusion.process import Transition, from_x_0
from diffusion_jax.diffusion.samplers import SMC, sample
from diffusion_jax.diffusion.schedules import float64_transitions, make_schedule, row
from tests.diffusion.gaussian_mixture import GaussianMixture, Tabulated
from tests.diffusion.populations import draw_populations, moments, weighted
from tests.parity.case import Case, Check
from tests.parity.compare import compare

PARTICLES, POPULATIONS = 32, 256
KEY = re.compile(
    r'smc_target[/_]ddpm_(small|large)(?:/(?P<steps>\d+)/|_)s(?P<scale>[\d.]+)(?:/(?P<after>\d+))?/'
)


def model_of(case: Case) -> GaussianMixture:
    arrays = case.arrays
    if 'weights' in arrays:
        data = arrays['weights'], arrays['means'], arrays['covs']
    else:
        data = np.ones(1), arrays['m'][None], arrays['C'][None]
    return GaussianMixture(*data, arrays['A'], arrays['y'], float(arrays['s_y']))


@functools.cache
def program(size: int, components: int, steps: str, variance: str, number: int):
    """The grid, and (model, scale, key) → populations of the sampler, compiled for all data of one size."""
    grid = make_grid(DiffusionConfig('linear', 1000), steps)

    def draw(model: Tabulated, scale: jax.Array, key: jax.Array):
        denoise = classifier_guidance(model.denoiser(variance=f'fixed_{variance}'), model.log_prob, scale)
        return draw_populations(SMC(PARTICLES, threshold=0.5), denoise, grid, size, number, key)

    return grid, jax.jit(draw)


def is_smc_target(case: Case) -> bool:
    return 's_y' in case.arrays and any(key.startswith('smc_target') for key in case.arrays)


def check_smc_target(case: Case) -> None:
    names = sorted({key.rpartition('/')[0] for key in case.arrays if key.startswith('smc_target')})
    for name in names:
        recorded = {
            key.rpartition('/')[2]: case.arrays[key] for key in case.arrays if key.startswith(f'{name}/')
        }
        beyond = deviation(case, name, recorded, POPULATIONS, 0)
        if beyond > 4:  # few populations underestimate their error if few weights are large
            beyond = deviation(case, name, recorded, 4 * POPULATIONS, 1)
        assert beyond < 4, f'{name}: a number differs by {beyond:.1f} standard errors'


def deviation(case: Case, name: str, recorded: dict[str, np.ndarray], number: int, seed: int) -> float:
    """The largest difference from the recorded numbers, in standard errors."""
    model, found = model_of(case), KEY.fullmatch(f'{name}/')
    assert found, f'{name} is not read'
    steps, scale = found['steps'] or found['after'], float(found['scale'])
    grid, draw = program(len(model.means[0]), len(model.weights), steps, found[1], number)
    x_0, log_weight = (np.asarray(a, np.float64) for a in draw(model.on(grid), scale, jax.random.key(seed)))
    ours = moments(x_0, log_weight)
    if 'component_weights' in recorded:
        ours['component_weights'] = weighted(log_weight, model.component_probabilities(x_0))
    errors = {'mean': 'mean_se', 'component_weights': 'weights_se'}
    largest = 0.0
    for key in recorded.keys() - set(errors.values()):
        mean, error = ours[key]
        if 'weights' in case.arrays:  # the recorded number has an error, too
            error = np.hypot(error, recorded.get(errors.get(key), error))
        largest = max(largest, float(np.max(np.abs(mean - recorded[key]) / error)))
    return largest


def is_tds(case: Case) -> bool:
    return {'pred_xstart_var_type', 'particles', 'tausq'} <= case.meta.keys()


def check_tds(case: Case) -> None:
    """The recorded run, free-running in float64, with the released proposal; see `released_twist`."""
    arrays, steps, size = case.arrays, case.meta['steps'], case.meta['particles']
    assert case.meta['pred_xstart_var_type'] == 6, 'only the recorded variance of the twist is known'
    table = float64_transitions(make_schedule('linear', 1000, str(steps)))
    grid = jax.tree.map(lambda a: a[::-1], table)
    noise = arrays['noise'].reshape(steps + 1, size, 1, 1, -1).astype(np.float64)
    uniforms = scipy.special.ndtri(
        np.broadcast_to(arrays['uniforms'][:, :, None, None], noise[1:].shape[:-1])
    )

    def noise_at(position, i):
        return jnp.asarray(uniforms[..., None])[position - 1] if i else jnp.asarray(noise)[position]

    def record(state, prediction, transition):
        log_potential = prediction.log_prob - state.lineage.total
        return state.x, state.log_weight + log_potential, state.ancestors, state.ess, prediction.log_prob

    with jax.enable_x64(True):
        denoise = released_twist(case, grid)
        state, found = jax.jit(lambda x: sample(SMC(size), denoise, grid, noise_at, x, record=record))(
            jnp.asarray(noise[0])
        )
    x, log_weight, ancestors, ess, log_potential = map(np.asarray, found)
    carried = np.logaddexp.reduce(log_weight, axis=1, keepdims=True) - np.log(size)
    log_w = log_weight - np.append([[0.0]], carried[:-1], axis=0)
    log_w = np.append(log_w, [np.asarray(state.log_weight) - carried[-1]], axis=0)
    close = {'rtol': 1e-4, 'atol': 1e-4}
    compare('particles of TDS', x[:, :, 0, 0], arrays['x'][:-1], **close)
    hidden = ~arrays['A'].any(axis=0)  # the release sets what is measured to y
    compare('images of TDS', np.asarray(state.x)[:, 0, 0, hidden], arrays['x_final'][:, hidden], **close)
    compare('potentials of TDS', log_potential, arrays['log_potential'], rtol=1e-3, atol=1e-4)
    compare('weights of TDS', log_w, arrays['log_w'], rtol=1e-3, atol=1e-3)
    compare('ancestors of TDS', [*ancestors[1:], state.ancestors], arrays['ancestors'])
    sizes = [*ess[1:, 0], state.ess[0], effective_sample_size(log_w[-1])]
    compare('effective sample sizes of TDS', sizes, arrays['ess'], **close)
    compare('weights of TDS', jax.nn.softmax(log_w[-1]), arrays['weights_final'], **close)


def released_twist(case: Case, grid: Transition) -> Denoiser:
    """The twist of a noise-free measurement, with the proposal as released.

    That has the mean of the posterior at x̂_0 + (1−ᾱ)/√ᾱ·g, clamped to [−1, 1] although the data are not,
    where ours has Σ·g. Its last weight is the density at y of the last kernel, with the variance of the one
    before it.
    """
    arrays, tau = case.arrays, case.meta['tausq']
    m, A, y = (jnp.asarray(arrays[key]) for key in 'm A y'.split())
    last = math.exp(grid.log_posterior[-1])

    def predict(x, level):
        variances, axes = (
            jnp.asarray(np.linalg.eigh(arrays['C'])[0]),
            jnp.asarray(np.linalg.eigh(arrays['C'])[1]),
        )
        gain = level.alpha * variances / (level.alpha**2 * variances + level.sigma**2)
        return from_x_0(m + (x - level.alpha * m) @ axes * gain @ axes.T, x, level)

    def log_twist(x, level):
        spread = level.edm_sigma**2
        spread = spread * tau / (spread + tau)
        value = -jnp.sum((y - predict(x, level).x_0 @ A.T) ** 2, axis=(1, 2, 3)) / (2 * spread)
        return jnp.sum(value), value

    def call(x, level, memory):
        step = row(jax.tree.map(jnp.asarray, grid), jnp.argmin(jnp.abs(grid.level.alpha - level.alpha)))
        prediction = predict(x, level)
        gradient, value = jax.grad(log_twist, has_aux=True)(x, level)
        twisted = jnp.clip(prediction.x_0 + level.sigma**2 / level.alpha * gradient, -1, 1)
        shift = step.mean_x0 * (twisted - prediction.x_0) / jnp.exp(step.log_posterior)
        return prediction._replace(gradient=shift, log_prob=value), memory

    def log_prob(x_0, level):
        squared = jnp.sum((y - x_0 @ A.T) ** 2, axis=(1, 2, 3))
        return -0.5 * (squared / last + len(y) * math.log(2 * math.pi * last))

    return Denoiser(call, log_prob=log_prob)


def is_fk(case: Case) -> bool:
    return {'lmbda', 'reward_min'} <= case.meta.keys() and 'reward_of_particle' in case.arrays


def check_fk(case: Case) -> None:
    """The weights that are resampled with, at every call.

    The release computes the last weight of 'max' and 'add' from the maximum and the sum of the rewards, so
    that its target is not exp(λ·r(x_0)); ours is from the last reward.
    """
    scale, arrays = case.meta['lmbda'], case.arrays
    kinds = {key.removeprefix('weights_') for key in arrays if key.startswith('weights_')}
    assert kinds <= {'diff', 'max', 'add', 'rt', 'is'}, kinds
    rewards = scale * arrays['reward_of_particle'].astype(np.float64)
    calls, size = rewards.shape
    least = np.full(size, scale * case.meta['reward_min'])
    with jax.enable_x64(True):
        for kind in kinds:
            name = {'diff': 'difference', 'add': 'sum'}.get(kind, kind)
            of_reward = lambda reward, lineage: (reward, lineage._replace(total=lineage.total + reward))  # noqa: E731
            potential = POTENTIALS[name][0] if name in POTENTIALS else of_reward
            lineage, roots = Lineage(least if kind == 'diff' else 0 * least, least), np.arange(size)
            for call in range(calls):
                recorded, place = arrays[f'weights_{kind}'], call
                before, (log_weight, lineage) = lineage, potential(rewards[call], lineage)
                if call == calls - 1:
                    place = -1
                    last = remainder(rewards[call], before)
                    released = {'max': lineage.running, 'add': lineage.running}.get(
                        kind, rewards[call]
                    ) - rewards[call]
                    log_weight = (last if kind != 'is' else rewards[call]) + released
                elif kind == 'is':
                    continue
                compare(
                    'weights of FK steering',
                    np.exp(log_weight),
                    recorded[place],
                    rtol=1e-5,
                    atol=1e-12,
                    detail=kind,
                )
                ancestors = arrays[f'ancestors_{kind}'][place]
                lineage, roots = take((lineage, roots), jnp.asarray(ancestors), size)
                compare('lineages of FK steering', roots, arrays[f'lineage_{kind}'][call])


CHECKS = [
    Check('particles', is_smc_target, check_smc_target, lambda case: len(case.arrays) > 150),
    Check('particles', is_tds, check_tds),
    Check('particles', is_fk, check_fk),
]
