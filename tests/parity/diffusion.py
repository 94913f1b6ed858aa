"""Checks of the diffusion maths: schedules, one-step formulas, losses, timestep samplers.

The recorded arrays are NCHW, ours are NHWC. Two quirks of the release are mended in ours. It takes 1−ᾱ in
float32 in DDIM and in guidance by the score; the difference stays within the tolerances. And it loses the
small masses of the discretized Gaussian: see `release_log_likelihood`.
"""

from __future__ import annotations

import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.diffusion import losses, timestep_samplers
from diffusion_jax.diffusion.guidance import clip, score_shift
from diffusion_jax.diffusion.likelihood import prior_term
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
from tests.parity import trajectories
from tests.parity.case import Case, Check
from tests.parity.trajectories import following_level, nchw, nhwc

KINDS = {'eps': 'eps', 'x0': 'x_0', 'prev': 'previous_x'}
VARIANCES = {'small': 'fixed_small', 'large': 'fixed_large', 'learned': 'learned', 'range': 'learned_range'}
LOSSES = {'mse': 'mse', 'rmse': 'rescaled_mse', 'kl': 'kl', 'rkl': 'rescaled_kl'}


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

    def decoder_noise(self, kind, variance, clipped, *_) -> np.ndarray:
        """One ulp of the release's Φ relative to the mass of every pixel, at t = 0; at most 1."""
        prediction = self.denoiser(kind, variance, clipped == 'clip1')(self.x_t, self.transition)
        model = posterior(prediction, self.x_t, self.transition, VARIANCES[variance])
        mass = np.exp(release_log_likelihood(self.x_0, model.mean, 0.5 * model.log_variance))
        first = np.reshape(self.t == 0, (-1, 1, 1, 1))
        return np.where(first, 2.0**-23 / np.maximum(mass, 2.0**-23), 0.0)

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
    for key, expected in case.arrays.items():
        if key in Math.inputs:
            continue
        if key.startswith(('vb', 'loss')):
            check_loss(ours, key, expected)
        else:
            actual = ours.answer(key)
            actual = nchw(actual) if expected.ndim == 4 else np.reshape(actual, expected.shape)
            np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-4, err_msg=key)


def check_loss(ours: Math, key: str, expected: np.ndarray) -> None:
    """With an allowance where the release's decoder likelihood hangs on the last bit of a tanh.

    A gradient may differ by one ulp of its pixel's mass, a loss by one such pixel. The absolute tolerance
    is that of rounding in the largest value, at most that of the other formulas.
    """
    noise = ours.decoder_noise(*key.split('/')[1:])
    scale = ours.num_timesteps if '/rkl/' in key else 1
    atol = min(1e-4, 1e-6 * max(scale, np.abs(expected).max()))
    with mock.patch.object(losses, 'discretized_gaussian_log_likelihood', release_log_likelihood):
        actual = ours.answer(key)
    if expected.ndim == 4:
        actual, noise = nchw(actual), nchw(noise)
        noise = np.tile(noise, (1, expected.shape[1] // noise.shape[1], 1, 1))
        rtol = np.where(noise < 0.5, 2e-4 + noise, 1e9)
    else:
        nats = 11 * noise.max(axis=(1, 2, 3)) / noise[0].size  # log 1e-12 instead of log 6e-8
        rtol = 2e-4 + nats / math.log(2) / np.abs(expected)
    error = np.abs(actual - expected)
    assert np.all(error <= atol + rtol * np.abs(expected)), (key, error.max())


# Likelihood


def is_discretized_likelihood(case: Case) -> bool:
    return {'log_scales', 'log_probs_float64'} <= set(case.meta.get('arrays', ()))


def check_discretized_likelihood(case: Case) -> None:
    """Ours keeps its digits everywhere; the release's float32 is right only where log_probs > −5 or so."""
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


CHECKS = [
    Check(is_schedules, check_schedules),
    Check(is_respacing, check_respacing),
    Check(is_diffusion_math, check_diffusion_math),
    Check(is_discretized_likelihood, check_discretized_likelihood),
    Check(is_second_moment, check_second_moment),
    *trajectories.CHECKS,
]
