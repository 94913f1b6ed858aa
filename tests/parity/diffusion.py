"""Checks of the diffusion maths: schedules, one-step formulas, losses, whole sampling runs.

The recorded arrays are NCHW, ours are NHWC. Two quirks of the release are mended in ours. It takes 1−ᾱ in
float32 in DDIM and in guidance by the score; the difference stays within the tolerances. And it loses the small
masses of the discretized Gaussian in float32: see `release_log_likelihood`.
"""

from __future__ import annotations

import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import models
from diffusion_jax.data.transforms import to_uint8
from diffusion_jax.diffusion import losses, timestep_samplers
from diffusion_jax.diffusion.guidance import classifier_guidance, clip, score_shift
from diffusion_jax.diffusion.likelihood import bits_per_dimension, prior_term
from diffusion_jax.diffusion.process import (
    Gaussian,
    add_noise,
    marginal,
    posterior,
    predict,
    true_posterior,
)
from diffusion_jax.diffusion.samplers.ddim import ddim_reverse_step, ddim_step
from diffusion_jax.diffusion.samplers.ddpm import ddpm_step
from diffusion_jax.diffusion.schedules import (
    Schedule,
    float64_transitions,
    make_schedule,
    respaced_timesteps,
    row,
    transitions,
)
from tests.parity.case import Case, Check
from tests.parity.models import load_network

KINDS = {'eps': 'eps', 'x0': 'x_0', 'prev': 'previous_x'}
VARIANCES = {'small': 'fixed_small', 'large': 'fixed_large', 'learned': 'learned', 'range': 'learned_range'}
LOSSES = {'mse': 'mse', 'rmse': 'rescaled_mse', 'kl': 'kl', 'rkl': 'rescaled_kl'}


def nhwc(x):
    return np.moveaxis(x, -3, -1)


def nchw(x):
    return np.moveaxis(np.asarray(x), -1, -3)


# Schedules


def schedule_arrays(schedule: Schedule) -> dict[str, np.ndarray]:
    """Our float64 constants under the names of the release."""
    table = float64_transitions(schedule)
    level = table.level
    return {
        'betas': schedule.betas,
        'alphas_cumprod': schedule.alpha_bar,
        'alphas_cumprod_prev': table.previous.signal**2,
        'alphas_cumprod_next': np.append(level.signal[1:] ** 2, 0.0),
        'sqrt_alphas_cumprod': level.signal,
        'sqrt_one_minus_alphas_cumprod': level.noise,
        'log_one_minus_alphas_cumprod': np.log(1 - schedule.alpha_bar),
        'sqrt_recip_alphas_cumprod': 1 / level.signal,
        'sqrt_recipm1_alphas_cumprod': level.noise / level.signal,
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
        np.testing.assert_allclose(actual, expected, rtol=1e-10, err_msg=key)


def is_respacing(case: Case) -> bool:
    cases = case.meta.get('config', {}).get('cases', [])
    return bool(cases) and all('section_counts' in setting for setting in cases)


def check_respacing(case: Case) -> None:
    for setting in case.meta['config']['cases']:
        num_timesteps, spec = setting['num_timesteps'], setting['section_counts']
        spec = spec if isinstance(spec, str) else ','.join(map(str, spec))
        if 'error' in setting:
            with pytest.raises(ValueError):
                respaced_timesteps(num_timesteps, spec)
        else:
            assert respaced_timesteps(num_timesteps, spec) == setting['timesteps'], spec
    for key, expected in case.arrays.items():
        num_timesteps, spec, rest = key.split('|')
        schedule, name = rest.split('/')
        process = make_schedule(schedule, int(num_timesteps), spec.strip('[]').replace(' ', ''))
        np.testing.assert_allclose(schedule_arrays(process)[name], expected, rtol=1e-10, err_msg=key)


# One-step formulas


class Math:
    """The recorded one-step results of one process, computed by ours; every key of the case is answered."""

    def __init__(self, case: Case):
        config, arrays = case.meta['config'], case.arrays
        self.schedule = config['noise_schedule'], config['diffusion_steps'], config['respacing']
        self.arrays = arrays
        self.t = jnp.asarray(arrays['t'])
        self.table = transitions(make_schedule(*self.schedule))
        self.transition = row(self.table, self.t)
        self.num_timesteps = len(self.table.level.t)
        self.x_0, self.noise, self.gradient = (nhwc(arrays[key]) for key in ('x_start', 'noise', 'cond_grad'))
        self.x_t = add_noise(self.x_0, self.noise, self.transition.level)

    inputs = frozenset(['t', 'x_start', 'noise', 'model_output_range', 'model_output_learned', 'cond_grad'])

    def output(self, variance):
        if variance == 'learned':
            return nhwc(self.arrays['model_output_learned'])
        output = nhwc(self.arrays['model_output_range'])
        return output if variance == 'range' else output[..., : output.shape[-1] // 2]

    def denoiser(self, kind='eps', variance='range', clipped=True, guided=False):
        def denoise(x_t, transition):
            return predict(self.output(variance), x_t, transition, KINDS[kind])

        denoise = clip(denoise) if clipped else denoise
        if not guided:
            return denoise
        return lambda x_t, transition: denoise(x_t, transition)._replace(gradient=self.gradient)

    def answer(self, key: str):
        name, *parts = key.split('/')
        return getattr(self, name)(*parts)

    def q_sample(self):
        return self.x_t

    def q_mean_variance(self, part):
        return getattr(marginal(self.x_0, self.transition.level), part)

    def q_posterior(self, part):
        return getattr(true_posterior(self.x_0, self.x_t, self.transition), part)

    def prior_bpd(self):
        return prior_term(self.x_0, self.table)

    def pmv(self, kind, variance, *parts):
        prediction = self.denoiser(kind, variance, 'clip0' not in parts)(self.x_t, self.transition)
        if parts[-1] == 'pred_xstart':
            return prediction.x_0
        return getattr(posterior(prediction, self.x_t, self.transition, VARIANCES[variance]), parts[-1])

    def vb(self, kind, variance, clipped, _):
        prediction = self.denoiser(kind, variance, clipped == 'clip1')(self.x_t, self.transition)
        return losses.vb_term(prediction, self.x_0, self.x_t, self.transition, VARIANCES[variance])

    def loss(self, kind, variance, loss, part):
        def terms(output):
            return losses.diffusion_loss(
                output,
                self.x_0,
                self.x_t,
                self.noise,
                self.transition,
                KINDS[kind],
                VARIANCES[variance],
                LOSSES[loss],
                self.num_timesteps,
            )

        output = self.output(variance)
        if part == 'grad_model_output':
            return jax.grad(lambda output: terms(output)['loss'].sum())(output)
        return terms(output)[part]

    def timesteps_seen(self, process, rescaled):
        schedule = self.schedule if process == 'spaced' else (self.schedule[0], int(process[len('base') :]))
        schedule = make_schedule(*schedule, rescale_timesteps=rescaled == 'rescale1')
        return row(transitions(schedule), self.t).level.t

    def condition_mean(self):
        """What the ancestral step returns without noise."""
        return self.p_sample_step_guided(noise=0.0)

    def condition_score(self, part):
        prediction = score_shift(self.denoiser(guided=True))(self.x_t, self.transition)
        if part == 'pred_xstart':
            return prediction.x_0
        return posterior(prediction, self.x_t, self.transition, 'learned_range').mean

    def ddim_step(self, eta):
        eta = float(eta.removeprefix('eta'))
        return ddim_step(self.denoiser(), self.x_t, self.transition, self.noise, eta)

    def ddim_reverse_step(self):
        following = following_level(self.table, self.t)
        return ddim_reverse_step(self.denoiser(), self.x_t, self.transition, following)

    def p_sample_step(self):
        return ddpm_step(self.denoiser(), self.x_t, self.transition, self.noise, 'learned_range')

    def p_sample_step_guided(self, noise=None):
        noise = self.noise if noise is None else noise
        return ddpm_step(self.denoiser(guided=True), self.x_t, self.transition, noise, 'learned_range')

    def denoised_fn(self, _):
        """The recorded denoised_fn is 0.5·x + 0.1, before the clamp."""

        def changed(x_t, transition):
            prediction = self.denoiser(clipped=False)(x_t, transition)
            return prediction._replace(x_0=0.5 * prediction.x_0 + 0.1)

        return clip(changed)(self.x_t, self.transition).x_0


def following_level(table, t):
    """Level t+1; after the last one the release has pure noise."""
    pure = table.level._replace(t=jnp.inf, signal=0.0, noise=1.0)
    levels = jax.tree.map(lambda values, last: jnp.append(values, last), table.level, pure)
    return jax.tree.map(lambda values: values[t + 1], levels)


@jax.custom_jvp
def release_tanh(x):
    """tanh as PyTorch has it in float32, rounded correctly, and its derivative from the rounded value."""
    return jnp.sign(x) * (1 - 2 / (jnp.exp(2 * jnp.abs(x)) + 1))


@release_tanh.defjvp
def release_tanh_jvp(primals, tangents):
    y = release_tanh(*primals)
    return y, (1 - y * y) * tangents[0]


def release_log_likelihood(x, mean, log_scale):
    """The discretized Gaussian as the release computes it: below 1e-5 its masses are rounding noise.

    1e-8 comes out as 0 or 6e-8, hence as −27.6 or −16.6 nats, and the gradients likewise.
    """

    def cdf(x):
        return 0.5 * (1 + release_tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    upper = cdf(jnp.exp(-log_scale) * (x - mean + 1 / 255))
    lower = cdf(jnp.exp(-log_scale) * (x - mean - 1 / 255))
    mass = jnp.where(x < -0.999, upper, jnp.where(x > 0.999, 1 - lower, upper - lower))
    return jnp.log(jnp.maximum(mass, 1e-12))


def is_diffusion_math(case: Case) -> bool:
    return {'model_output_range', 'q_sample'} <= set(case.meta.get('arrays', ()))


def check_diffusion_math(case: Case) -> None:
    ours = Math(case)
    first = case.arrays['t'] == 0
    with mock.patch.object(losses, 'discretized_gaussian_log_likelihood', release_log_likelihood):
        release = {key: ours.answer(key) for key in case.arrays if key.startswith(('vb', 'loss'))}
    for key, expected in case.arrays.items():
        if key in Math.inputs:
            continue
        is_loss = key in release
        atol = 1e-6 if is_loss else 1e-4
        actual = release[key] if is_loss else ours.answer(key)
        actual = nchw(actual) if expected.ndim == 4 else np.reshape(actual, expected.shape)
        np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=atol, err_msg=key)


# Likelihood


def is_discretized_likelihood(case: Case) -> bool:
    return {'log_scales', 'log_probs_float64'} <= set(case.meta.get('arrays', ()))


def check_discretized_likelihood(case: Case) -> None:
    """Ours holds its digits, so that the bound of the release's common range holds for all; so must its floor."""
    a = case.arrays
    exact = a['log_probs_float64']
    log_probs = losses.discretized_gaussian_log_likelihood(a['x'], a['means'], a['log_scales'])
    np.testing.assert_allclose(log_probs, exact, rtol=0, atol=1e-3)
    assert np.abs(log_probs - exact)[exact > -5].max() < 1e-4
    with jax.enable_x64(True):
        wide = (jnp.asarray(a[key], jnp.float64) for key in ('x', 'means', 'log_scales'))
        error = np.abs(losses.discretized_gaussian_log_likelihood(*wide) - exact)
    assert error[exact > -15].max() < 1e-9, 'below, the release loses digits in float64, too'
    np.testing.assert_allclose(losses.standard_normal_cdf(a['cdf_in']), a['cdf_out'], rtol=0, atol=1e-6)
    p, q = (Gaussian(a[f'kl_mean{i}'], np.exp(a[f'kl_logvar{i}']), a[f'kl_logvar{i}']) for i in (1, 2))
    np.testing.assert_allclose(losses.normal_kl(p, q), a['kl'], rtol=2e-5, atol=1e-5)


# Timestep samplers


def is_second_moment(case: Case) -> bool:
    return {'losses', 'loss_history', 'weights_after_batch'} <= set(case.meta.get('arrays', ()))


def check_second_moment(case: Case) -> None:
    """Our history is float32, the recorded one float64: relative 1e-5."""
    config, arrays = case.meta['config'], case.arrays
    state = timestep_samplers.init('loss_second_moment', config['num_timesteps'], config['history_per_term'])

    @jax.jit
    def step(state, t, values):
        state = timestep_samplers.update(state, t, values)
        weights = timestep_samplers.weights(state, config['uniform_prob'])
        return state, weights, jnp.all(state['counts'] == config['history_per_term'])

    ours = []
    for t, values in zip(arrays['ts'].astype(np.int32), arrays['losses'].astype(np.float32), strict=True):
        state, weights, warm = step(state, t, values)
        ours.append((np.asarray(weights), bool(warm)))
    np.testing.assert_allclose([w for w, _ in ours], arrays['weights_after_batch'], rtol=1e-5)
    np.testing.assert_array_equal([warm for _, warm in ours], arrays['warmed_up'])
    np.testing.assert_allclose(state['history'], arrays['loss_history'], rtol=1e-6)
    np.testing.assert_array_equal(state['counts'], arrays['loss_counts'])
    weights = ours[-1][0]
    np.testing.assert_allclose(weights.mean() / weights, arrays['is_weights_per_t'], rtol=1e-5)


# Whole runs

STEP_TOLERANCE = 1e-3
FREE_RUN_SENSITIVITIES = 30


class Networks:
    """The networks of a case, each compiled once a batch size."""

    def __init__(self, case: Case, unet: str, classifier: str | None = None):
        self.y = jnp.asarray(case.arrays['y'], jnp.int32)
        self.config, params = load_network(case.sibling(f'weights_{unet}'))
        self.unet = jax.jit(functools.partial(models.apply, self.config, params))
        if classifier is not None:
            config, params = load_network(case.sibling(f'weights_{classifier}'))
            self.classifier = jax.jit(functools.partial(models.apply, config, params))

    def denoiser(self, kind='eps', clipped=True, scale=None):
        """Batches hold whole repetitions of the recorded batch."""

        def labels(x):
            return jnp.tile(self.y, len(x) // len(self.y))

        def denoise(x_t, transition):
            y = labels(x_t) if self.config.num_classes else None
            return predict(self.unet(x_t, transition.level.t, y), x_t, transition, kind)

        def log_prob(x_t, t):
            log_probs = jax.nn.log_softmax(self.classifier(x_t, t))
            return jnp.take_along_axis(log_probs, labels(x_t)[:, None], axis=1)[:, 0]

        denoise = clip(denoise) if clipped else denoise
        return denoise if scale is None else classifier_guidance(denoise, log_prob, scale)


def flat(x):
    """[steps, B, C, H, W] → [steps·B, H, W, C]: with the x before every step recorded, all steps are one batch."""
    return jnp.asarray(nhwc(x.reshape(-1, *x.shape[2:])))


def before_each_step(start, after):
    return flat(np.concatenate([start[None], after[:-1]]))


def rows(table, order, batch):
    return row(table, jnp.repeat(jnp.asarray(order), batch))


def check_steps(step, table, order, start, noise, recorded, name):
    """Every step from the recorded x before it."""
    ours = step(before_each_step(start, recorded), rows(table, order, len(start)), flat(noise))
    np.testing.assert_allclose(ours, flat(recorded), rtol=0, atol=STEP_TOLERANCE, err_msg=name)


def check_free_run(step, table, order, start, noise, recorded, sensitivity, name):
    """Every step from our own x before it; errors may grow as those of a perturbed start do."""
    x = nhwc(start)
    for k, t in enumerate(order):
        x = step(x, rows(table, [t], len(start)), nhwc(noise[k]))
        tolerance = FREE_RUN_SENSITIVITIES * sensitivity[k]
        np.testing.assert_allclose(x, nhwc(recorded[k]), rtol=0, atol=tolerance, err_msg=f'{name} step {k}')


def make_step(run, denoise, variance):
    if run['kind'] == 'ddim':
        return lambda x_t, transition, noise: ddim_step(denoise, x_t, transition, noise, run['eta'])
    return lambda x_t, transition, noise: ddpm_step(denoise, x_t, transition, noise, variance)


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
    guided = networks.denoiser(clipped=run['clip_denoised'], scale=run['classifier_scale'])
    step = make_step(run, guided, variance)
    check_steps(step, table, order, start, tape, recorded, name)
    sensitivity = case.meta['sensitivity_max_abs_diff_for_1e6_perturbation_of_x_T'][name]
    check_free_run(step, table, order, start, tape, recorded, sensitivity, name)

    shown = score_shift(guided) if run['kind'] == 'ddim' else guided
    for part, k in (('first', 0), ('last', -1)):
        before = nhwc(start if k == 0 else recorded[-2])
        x_0 = shown(before, rows(table, [order[k]], len(start))).x_0
        expected = arrays[f'{name}/pred_xstart_{part}']
        np.testing.assert_allclose(nchw(x_0), expected, rtol=2e-4, atol=STEP_TOLERANCE, err_msg=f'{name} {part}')
    if run['classifier_scale'] is not None:
        seen = case.meta['cond_fn_timesteps_seen'][name]
        np.testing.assert_allclose(table.level.t[::-1], seen, rtol=1e-6)
    if f'uint8_of_{name}' in arrays:
        np.testing.assert_array_equal(to_uint8(nhwc(recorded[-1])), arrays[f'uint8_of_{name}'])


def check_reverse(networks: Networks, table, arrays, clipped: bool) -> None:
    start, recorded = arrays['x0_for_reverse'], arrays[f'ddim_reverse_clip{clipped:d}/x']
    order = jnp.repeat(jnp.arange(len(recorded)), len(start))
    ours = ddim_reverse_step(
        networks.denoiser(clipped=clipped),
        before_each_step(start, recorded),
        row(table, order),
        following_level(table, order),
    )
    np.testing.assert_allclose(ours, flat(recorded), rtol=0, atol=STEP_TOLERANCE)


def check_bits_per_dimension(networks: Networks, table, arrays, variance: str, clipped: bool) -> None:
    """The release walks down from the largest t, along its tape; our table begins at 0."""
    x_0 = jnp.asarray(nhwc(arrays['x0_for_reverse']))
    tape = jnp.asarray(nhwc(arrays['noise_tape'][: len(table.level.t)]))[::-1]
    denoise = networks.denoiser(clipped=clipped)
    bits = jax.jit(lambda x_0, tape: bits_per_dimension(denoise, x_0, table, tape.__getitem__, variance))
    bits = bits(x_0, tape)
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
            np.testing.assert_allclose(ours[key[len(prefix) :]], expected, rtol=1e-3, atol=1e-5, err_msg=key)


def check_unconditional(case: Case) -> None:
    config, arrays = case.meta['config']['uncond'], case.arrays
    networks = Networks(case, config['unet'])
    for name, num_timesteps in config['steps'].items():
        kind, variance = name.split('_')[:2]
        schedule = make_schedule(
            config['noise_schedule'], num_timesteps, config['timestep_respacing'], name.endswith('rescale')
        )
        denoise = networks.denoiser({'x0pred': 'x_0', 'eps': 'eps'}[kind])
        variance = {'fixedlarge': 'fixed_large', 'fixedsmall': 'fixed_small'}[variance]
        step = make_step({'kind': 'ddpm'}, denoise, variance)
        recorded = arrays[f'uncond_{name}/x']
        order = range(len(recorded))[::-1]
        tape = arrays['noise_tape'][: len(order)]
        check_steps(step, transitions(schedule), order, arrays['x_T'], tape, recorded, name)


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
        check_bits_per_dimension(networks, table, arrays, variance, clipped)
    check_unconditional(case)


CHECKS = [
    Check(is_schedules, check_schedules),
    Check(is_respacing, check_respacing),
    Check(is_diffusion_math, check_diffusion_math),
    Check(is_discretized_likelihood, check_discretized_likelihood),
    Check(is_second_moment, check_second_moment),
    Check(is_trajectories, check_trajectories),
]
