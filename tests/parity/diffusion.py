"""Checks of the diffusion maths: one-step formulas, losses, likelihood, timestep samplers.

The recorded arrays are NCHW, ours are NHWC. Two quirks of the release are mended in ours and reproduced here:
it takes 1−ᾱ in float32 (`release_ddim_step`; in guidance by the score it does so too, below the rounding of
its x_0), and it loses the small masses of the discretized Gaussian (`release_log_likelihood`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion import losses, timestep_samplers
from diffusion_jax.diffusion.denoiser import clip, plain, score_shift
from diffusion_jax.diffusion.process import (
    Gaussian,
    add_noise,
    align,
    marginal,
    posterior,
    predict,
    true_posterior,
)
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.diffusion.schedules import (
    make_schedule,
    row,
    transitions,
)
from diffusion_jax.diffusion.variational_bound import prior_term
from tests.diffusion.steps import take_step
from tests.parity import schedules, trajectories
from tests.parity.case import Case, Check
from tests.parity.compare import compare
from tests.parity.exact import Exact
from tests.parity.likelihood import release_log_likelihood
from tests.parity.trajectories import following_level, nchw, nhwc, reverse_step, with_gradient

KINDS = {'eps': 'eps', 'x0': 'x_0', 'prev': 'previous_x'}
VARIANCES = {'small': 'fixed_small', 'large': 'fixed_large', 'learned': 'learned', 'range': 'learned_range'}
QUANTITIES = {
    'q_sample': 'q(x_t|x_0)',
    'q_mean_variance': 'q(x_t|x_0)',
    'q_posterior': 'q(x_{t−1}|x_t, x_0)',
    'prior_bpd': 'prior term of the bound',
    'pmv': 'p(x_{t−1}|x_t)',
    'denoised_fn': 'p(x_{t−1}|x_t)',
    'vb': 'terms of the bound',
    'loss': 'losses',
    'timesteps_seen': 'timesteps seen by the network',
    'condition_mean': 'guidance',
    'condition_score': 'guidance',
    'ddim_step': 'DDIM step',
    'ddim_reverse_step': 'DDIM step, reverse',
    'p_sample_step': 'DDPM step',
    'p_sample_step_guided': 'DDPM step',
}
LOSSES = {'mse': 'mse', 'rmse': 'rescaled_mse', 'kl': 'kl', 'rkl': 'rescaled_kl'}


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
        before = np.append(1.0, make_schedule(*self.schedule).alpha_bar[:-1])
        self.alpha_bar_before = before.astype(np.float32)[self.t]
        self.x_0, self.noise, self.gradient = (nhwc(arrays[key]) for key in ('x_start', 'noise', 'cond_grad'))
        self.x_t = nhwc(arrays['q_sample'])  # so that both sides start from the same number

    inputs = frozenset(['t', 'x_start', 'noise', 'model_output_range', 'model_output_learned', 'cond_grad'])

    def output(self, variance):
        if variance == 'learned':
            return nhwc(self.arrays['model_output_learned'])
        output = nhwc(self.arrays['model_output_range'])
        return output if variance == 'range' else output[..., : output.shape[-1] // 2]

    def denoiser(self, kind='eps', variance='range', clipped=True, guided=False):
        def predicted(x_t, level):
            return predict(self.output(variance), x_t, self.transition, KINDS[kind])

        denoise = plain(predicted, variance=VARIANCES[variance])
        denoise = clip(denoise) if clipped else denoise
        return with_gradient(denoise, self.gradient) if guided else denoise

    def prediction(self, denoise):
        return denoise(self.x_t, self.transition.level)[0]

    def step(self, sampler, guided=False, noise=None):
        noise = self.noise if noise is None else noise
        return take_step(sampler, self.denoiser(guided=guided), self.x_t, self.transition, noise)

    def answer(self, key: str):
        name, *parts = key.split('/')
        return getattr(self, name)(*parts)

    def q_sample(self):
        return add_noise(self.x_0, self.noise, self.transition.level)

    def q_mean_variance(self, part):
        return getattr(marginal(self.x_0, self.transition.level), part)

    def q_posterior(self, part):
        return getattr(true_posterior(self.x_0, self.x_t, self.transition), part)

    def prior_bpd(self):
        return prior_term(self.x_0, self.table)

    def pmv(self, kind, variance, *parts):
        prediction = self.prediction(self.denoiser(kind, variance, 'clip0' not in parts))
        if parts[-1] == 'pred_xstart':
            return prediction.x_0
        return getattr(posterior(prediction, self.x_t, self.transition, VARIANCES[variance]), parts[-1])

    def vb(self, kind, variance, clipped, _):
        prediction = self.prediction(self.denoiser(kind, variance, clipped == 'clip1'))
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
        prediction = self.prediction(score_shift(self.denoiser(guided=True)))
        if part == 'pred_xstart':
            return prediction.x_0
        return posterior(prediction, self.x_t, self.transition, 'learned_range').mean

    def ddim_step(self, eta):
        return self.step(DDIM(float(eta.removeprefix('eta'))))

    def ddim_reverse_step(self):
        following = following_level(self.table, self.t)
        return reverse_step(self.denoiser(), self.x_t, self.transition.level, following)

    def p_sample_step(self):
        return self.step(DDPM())

    def p_sample_step_guided(self, noise=None):
        return self.step(DDPM(), guided=True, noise=noise)

    def denoised_fn(self, _):
        """The recorded denoised_fn is 0.5·x + 0.1, before the clamp."""

        prediction = self.prediction(self.denoiser(clipped=False))
        changed = prediction._replace(x_0=0.5 * prediction.x_0 + 0.1)
        return self.prediction(clip(plain(lambda *_: changed))).x_0


def release_ddim_step(ours: Math) -> jax.Array:
    """Its DDIM step of η = 0, both coefficients of which come from a float32 value of ᾱ."""
    before = align(ours.alpha_bar_before, ours.x_t)
    prediction = ours.prediction(ours.denoiser())
    return prediction.x_0 * jnp.sqrt(before) + jnp.sqrt(1 - before) * prediction.eps


def is_diffusion_math(case: Case) -> bool:
    return {'model_output_range', 'q_sample'} <= set(case.meta.get('arrays', ()))


def check_diffusion_math(case: Case) -> None:
    ours = Math(case)
    schedule = make_schedule(*ours.schedule)
    exact = Exact(case.arrays, schedule.betas, schedule.alpha_bar)
    for key, recorded in case.arrays.items():
        if key in Math.inputs:
            continue
        reference = {} if key.startswith('timesteps') else explanations(exact, key, recorded)
        atol, actual = 1e-4, as_recorded(ours.answer(key), recorded)
        if key.startswith(('vb', 'loss')):
            # Rounding in the largest value, at most the tolerance of the other formulas.
            scale = ours.num_timesteps if '/rkl/' in key else 1
            atol = min(1e-4, 1e-6 * max(scale, np.abs(recorded).max()))
        quantity = QUANTITIES[key.split('/')[0]] + (', gradient' if key.endswith('grad_model_output') else '')
        compare(quantity, actual, recorded, rtol=2e-4, atol=atol, detail=key, **reference)
    check_release_alpha_bar(ours)


def explanations(exact: Exact, key: str, recorded: np.ndarray) -> dict[str, Callable]:
    """The two that `compare` may ask for, in the recorded shape."""
    return {
        'exact': lambda: np.reshape(exact.answer(key), recorded.shape),
        'rounding': lambda: np.reshape(exact.rounding(key), recorded.shape),
    }


def as_recorded(ours: jax.Array, recorded: np.ndarray) -> np.ndarray:
    return nchw(ours) if recorded.ndim == 4 else np.reshape(ours, recorded.shape)


def check_release_alpha_bar(ours: Math) -> None:
    """With 1−ᾱ in float32 the recorded numbers come out to the last digits."""
    for key, recorded in ours.arrays.items():
        if key.startswith('ddim_step/eta') and float(key.removeprefix('ddim_step/eta')) == 0:
            actual = nchw(release_ddim_step(ours))
            compare('DDIM step with 1−ᾱ in float32', actual, recorded, rtol=1e-6, atol=1e-6, detail=key)


# Likelihood


def is_discretized_likelihood(case: Case) -> bool:
    return {'log_scales', 'log_probs_float64'} <= set(case.meta.get('arrays', ()))


def check_discretized_likelihood(case: Case) -> None:
    """Ours keeps its digits everywhere; the release's float32 is right only where log_probs > −5 or so."""
    a = case.arrays
    exact = a['log_probs_float64']
    x, means, log_scales = (a[key] for key in ('x', 'means', 'log_scales'))
    log_probs = losses.discretized_gaussian_log_likelihood(x, means, log_scales)
    compare('log-likelihood of pixels, against float64', log_probs, exact, atol=1e-3)
    assert np.abs(log_probs - exact)[exact > -5].max() < 1e-4
    with jax.enable_x64(True):
        wide = (jnp.asarray(array, jnp.float64) for array in (x, means, log_scales))
        log_probs = np.asarray(losses.discretized_gaussian_log_likelihood(*wide))
    kept = exact > -15  # below, the release loses digits in float64, too
    compare('log-likelihood of pixels, in float64', log_probs[kept], exact[kept], atol=1e-9)
    # Theirs in float32: equal masses, within two units of the last place of the values of Φ near 1.
    masses = (np.exp(np.float64(p)) for p in (release_log_likelihood(x, means, log_scales), a['log_probs']))
    compare('masses of pixels as the release has them', *masses, atol=2 * 2.0**-23)
    compare('Φ', losses.standard_normal_cdf(a['cdf_in']), a['cdf_out'], atol=1e-6)
    p, q = (Gaussian(a[f'kl_mean{i}'], np.exp(a[f'kl_logvar{i}']), a[f'kl_logvar{i}']) for i in (1, 2))
    compare('KL of normal distributions', losses.normal_kl(p, q), a['kl'], rtol=2e-5, atol=1e-5)


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
    compare('weights of timesteps', [w for w, _ in ours], arrays['weights_after_batch'], rtol=1e-5)
    np.testing.assert_array_equal([warm for _, warm in ours], arrays['warmed_up'])
    compare('history of losses', state['history'], arrays['loss_history'], rtol=1e-6)
    np.testing.assert_array_equal(state['counts'], arrays['loss_counts'])
    weights = ours[-1][0]
    compare('importance weights', weights.mean() / weights, arrays['is_weights_per_t'], rtol=1e-5)


CHECKS = [
    *schedules.CHECKS,
    Check('one-step formulas', is_diffusion_math, check_diffusion_math),
    Check('one-step formulas', is_discretized_likelihood, check_discretized_likelihood),
    Check('timestep samplers', is_second_moment, check_second_moment),
    *trajectories.CHECKS,
]
