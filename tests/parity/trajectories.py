"""Checks of sampling runs: every step from the recorded x before it, and the complete run.

Recorded images are [..., C, H, W], ours [..., H, W, C].

A step holds a network, and networks agree within OUTPUT_ATOL. Where x_0 is not clamped, the step multiplies
that by up to √(1−ᾱ)/√ᾱ, 1e4 at the end of a cosine schedule, and x grows so large that float32 itself is
coarser than the tolerance of a step. So `Rounding` takes both through the very step that is checked.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import models
from diffusion_jax.diffusion.denoiser import Denoiser, add_gradient, clip, plain, score_shift
from diffusion_jax.diffusion.guidance import classifier_guidance
from diffusion_jax.diffusion.process import Transition, predict
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.diffusion.schedules import make_schedule, row, transitions
from diffusion_jax.diffusion.variational_bound import bits_per_dimension
from diffusion_jax.images import to_uint8
from tests.diffusion.steps import take_step
from tests.parity.case import Case, Check
from tests.parity.compare import compare
from tests.parity.exact import UNITS
from tests.parity.models import OUTPUT_ATOL, load_network

STEP_TOLERANCE = 1e-3
FREE_RUN_SENSITIVITIES = 30


def nhwc(x):
    return np.moveaxis(x, -3, -1)


def nchw(x):
    return np.moveaxis(np.asarray(x), -1, -3)


def following_level(table, t):
    """Level t+1; after the last one the release has pure noise."""
    pure = table.level._replace(t=jnp.inf, alpha=0.0, sigma=1.0)
    levels = jax.tree.map(lambda values, last: jnp.append(values, last), table.level, pure)
    return jax.tree.map(lambda values: values[t + 1], levels)


def reverse_step(denoise, x_t, level, following):
    """DDIM of η = 0 to a noisier level."""
    transition = Transition(level, following, log_beta=jnp.full_like(level.t, -jnp.inf))
    return take_step(DDIM(), denoise, x_t, transition, jnp.zeros_like(x_t))


def with_gradient(denoise, gradient):
    """The denoiser guided by a gradient that is given."""
    return plain(lambda x_t, level: add_gradient(denoise(x_t, level)[0], gradient), variance=denoise.variance)


class Networks:
    """The networks of a case, each compiled once a batch size. Batches repeat the recorded one."""

    def __init__(self, case: Case, unet: str, classifier: str | None = None):
        self.y = jnp.asarray(case.arrays['y'], jnp.int32)
        self.config, self.unet = self.load(case, unet)
        if classifier is not None:
            _, self.classifier = self.load(case, classifier)

    @staticmethod
    def load(case, name):
        config, params = load_network(case.sibling(f'weights_{name}'))
        return config, functools.partial(jax.jit(functools.partial(models.apply, config)), params)

    def labels(self, x):
        return jnp.tile(self.y, len(x) // len(self.y))

    def output(self, x_t, t):
        return self.unet(x_t, t, self.labels(x_t) if self.config.num_classes else None)

    def log_prob(self, x_t, level):
        log_probs = jax.nn.log_softmax(self.classifier(x_t, level.t))
        return jnp.take_along_axis(log_probs, self.labels(x_t)[:, None], axis=1)[:, 0]

    def denoiser(self, kind='eps', variance='fixed_small', clipped=True, scale=None):
        def predicted(x_t, level):
            return predict(self.output(x_t, level.t), x_t, Transition(level), kind)

        denoise = plain(predicted, variance=variance)
        denoise = clip(denoise) if clipped else denoise
        return denoise if scale is None else classifier_guidance(denoise, self.log_prob, scale)

    def frozen(self, x_t, level, kind='eps', variance='fixed_small', clipped=True, scale=None):
        """The same denoiser as a function of what the networks put out here: the output and the gradient."""
        output = self.output(x_t, level.t)
        gradient = None
        if scale is not None:
            gradient = scale * jax.grad(lambda x: self.log_prob(x, level).sum())(x_t)

        def denoiser(shift):
            def predicted(x_t, level):
                return predict(output + shift, x_t, Transition(level), kind)

            denoise = plain(predicted, variance=variance)
            denoise = clip(denoise) if clipped else denoise
            return denoise if gradient is None else with_gradient(denoise, gradient)

        return denoiser


@dataclass(frozen=True)
class Rounding:
    """How far two right answers may lie apart, element by element, for any function of a denoiser and x_t.

    The network's output is moved by OUTPUT_ATOL either way, and x_t, as the formulas see it, by four
    roundings; a clamped element does not move.
    """

    frozen: Callable[[float], Denoiser]
    x_t: jax.Array

    def of(self, function: Callable[[Denoiser, jax.Array], jax.Array]) -> np.ndarray:
        here = function(self.frozen(0.0), self.x_t)
        network = [jnp.abs(function(self.frozen(s), self.x_t) - here) for s in (OUTPUT_ATOL, -OUTPUT_ATOL)]
        arithmetic = jnp.abs(function(self.frozen(0.0), self.x_t * (1 + UNITS)) - here)
        return np.asarray(jnp.maximum(*network) + arithmetic + UNITS * jnp.abs(here))


def flat(x):
    """[steps, B, C, H, W] → [steps·B, H, W, C]: as every x is recorded, all steps of a run are one batch."""
    return jnp.asarray(nhwc(x.reshape(-1, *x.shape[2:])))


def before_each_step(start, after):
    return flat(np.concatenate([start[None], after[:-1]]))


def rows(table, order, batch):
    return row(table, jnp.repeat(jnp.asarray(order), batch))


def check_steps(step, denoiser, table, order, start, noise, recorded, name):
    """Every step from the recorded x before it. `denoiser`: the arguments of `Networks.denoiser`."""
    networks, options = denoiser
    x_t, transition, noise = before_each_step(start, recorded), rows(table, order, len(start)), flat(noise)
    rounding = Rounding(networks.frozen(x_t, transition.level, **options), x_t)
    compare(
        'sampling steps',
        step(networks.denoiser(**options), x_t, transition, noise),
        flat(recorded),
        atol=STEP_TOLERANCE,
        rounding=lambda: rounding.of(lambda denoise, x: step(denoise, x, transition, noise)),
        detail=name,
    )


def check_free_run(step, table, order, start, noise, recorded, sensitivity, name):
    """Every step from our own x before it; errors may grow as those of a perturbed start do."""
    x = jnp.asarray(nhwc(start))
    for k, t in enumerate(order):
        x = step(x, rows(table, [t], len(x)), jnp.asarray(nhwc(noise[k])))
        tolerance = FREE_RUN_SENSITIVITIES * sensitivity[k]
        compare('sampling runs on their own', x, nhwc(recorded[k]), atol=tolerance, detail=f'{name} step {k}')


def make_step(run):
    """(denoise, x_t, transition, noise) → x_{t-1}."""
    return functools.partial(take_step, DDIM(run['eta']) if run['kind'] == 'ddim' else DDPM())


def check_run(case: Case, networks: Networks, name: str) -> None:
    config, arrays = case.meta['config'], case.arrays
    run = config['runs'][name]
    schedule = make_schedule(
        config['noise_schedule'],
        config['diffusion_steps'],
        run['timestep_respacing'],
        config['rescale_timesteps'],
    )
    table, order = transitions(schedule), range(len(schedule.betas))[::-1]
    start, tape, recorded = arrays['x_T'], arrays['noise_tape'][: len(order)], arrays[f'{name}/x']
    variance = 'learned_range' if config['learn_sigma'] else 'fixed_large'
    options = {'variance': variance, 'clipped': run['clip_denoised'], 'scale': run['classifier_scale']}
    step, guided = make_step(run), networks.denoiser(**options)
    check_steps(step, (networks, options), table, order, start, tape, recorded, name)
    sensitivity = case.meta['sensitivity_max_abs_diff_for_1e6_perturbation_of_x_T'][name]
    free = functools.partial(step, guided)
    check_free_run(free, table, order, start, tape, recorded, sensitivity, name)

    x_t, transition = before_each_step(start, recorded), rows(table, order, len(start))
    rounding = Rounding(networks.frozen(x_t, transition.level, **options), x_t)

    def x_0(denoise, x_t):
        """Of every step: guided, for the release returns it so, only by DDIM."""
        shown = score_shift(denoise) if run['kind'] == 'ddim' else denoise
        return nchw(shown(x_t, transition.level)[0].x_0).reshape(recorded.shape)

    ours = x_0(guided, x_t)
    for part, k in (('first', 0), ('last', -1)):
        compare(
            'x_0 predicted while sampling',
            ours[k],
            arrays[f'{name}/pred_xstart_{part}'],
            rtol=2e-4,
            atol=STEP_TOLERANCE,
            rounding=lambda k=k: rounding.of(x_0)[k],
            detail=f'{name} {part}',
        )
    if run['classifier_scale'] is not None:
        seen = case.meta['cond_fn_timesteps_seen'][name]
        compare('timesteps seen by the classifier', table.level.t[::-1], seen, rtol=1e-6, detail=name)
    if f'uint8_of_{name}' in arrays:
        np.testing.assert_array_equal(to_uint8(nhwc(recorded[-1])), arrays[f'uint8_of_{name}'])


def check_reverse(networks: Networks, table, arrays, clipped: bool) -> None:
    start, recorded = arrays['x0_for_reverse'], arrays[f'ddim_reverse_clip{clipped:d}/x']
    order = jnp.repeat(jnp.arange(len(recorded)), len(start))
    x_t, level = before_each_step(start, recorded), row(table, order).level
    following = following_level(table, order)
    rounding = Rounding(networks.frozen(x_t, level, clipped=clipped), x_t)
    compare(
        'DDIM steps back',
        reverse_step(networks.denoiser(clipped=clipped), x_t, level, following),
        flat(recorded),
        atol=STEP_TOLERANCE,
        rounding=lambda: rounding.of(lambda denoise, x: reverse_step(denoise, x, level, following)),
    )


def check_bits_per_dimension(networks: Networks, table, arrays, variance: str) -> None:
    """The release walks down from the largest t, along its tape; our table begins at 0."""
    x_0 = jnp.asarray(nhwc(arrays['x0_for_reverse']))
    tape = jnp.asarray(nhwc(arrays['noise_tape'][: len(table.level.t)]))[::-1]

    @jax.jit
    def bound(clipped):
        def predicted(x_t, level):
            free, _ = networks.denoiser(clipped=False)(x_t, level)
            clamped, _ = clip(plain(lambda *_: free))(x_t, level)
            return jax.tree.map(functools.partial(jnp.where, clipped), clamped, free)

        return bits_per_dimension(plain(predicted), x_0, table, tape.__getitem__, variance)

    for clipped in (True, False):
        bits = bound(clipped)
        ours = {
            'total_bpd': bits['total'],
            'prior_bpd': bits['prior'],
            'vb': bits['vb'][:, ::-1],
            'xstart_mse': bits['x_0_mse'][:, ::-1],
            'mse': bits['eps_mse'][:, ::-1],
        }
        prefix = f'bpd_clip{clipped:d}/'
        for key, expected in arrays.items():
            if key.startswith(prefix):
                actual = ours[key.removeprefix(prefix)]
                compare('bits per dimension', actual, expected, rtol=1e-3, atol=1e-5, detail=key)


def check_unconditional(case: Case) -> None:
    config, arrays = case.meta['config']['uncond'], case.arrays
    networks = Networks(case, config['unet'])
    for name, num_timesteps in config['steps'].items():
        kind, variance = name.split('_')[:2]
        schedule = make_schedule(
            config['noise_schedule'], num_timesteps, config['timestep_respacing'], name.endswith('rescale')
        )
        options = {
            'kind': {'x0pred': 'x_0', 'eps': 'eps'}[kind],
            'variance': {'fixedlarge': 'fixed_large', 'fixedsmall': 'fixed_small'}[variance],
        }
        step = make_step({'kind': 'ddpm'})
        recorded = arrays[f'uncond_{name}/x']
        order = range(len(recorded))[::-1]
        tape, table = arrays['noise_tape'][: len(order)], transitions(schedule)
        check_steps(step, (networks, options), table, order, arrays['x_T'], tape, recorded, name)


def is_trajectories(case: Case) -> bool:
    return 'runs' in case.meta.get('config', {}) and 'noise_tape' in case.meta['arrays']


def check_trajectories(case: Case) -> None:
    config, arrays = case.meta['config'], case.arrays
    networks = Networks(case, config['unet'], config['classifier'])
    for name in config['runs']:
        check_run(case, networks, name)
    schedule = make_schedule(
        config['noise_schedule'],
        config['diffusion_steps'],
        config['reverse_and_bpd_respacing'],
        config['rescale_timesteps'],
    )
    table = transitions(schedule)
    variance = 'learned_range' if config['learn_sigma'] else 'fixed_large'
    for clipped in (True, False):
        check_reverse(networks, table, arrays, clipped)
    check_bits_per_dimension(networks, table, arrays, variance)
    check_unconditional(case)


CHECKS = [Check('sampling', is_trajectories, check_trajectories)]
