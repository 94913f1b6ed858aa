"""Guidance for classes against public implementations, function by function, and against exact laws.

Where a released form is not the paper's, the check has it as a few lines of its own.
"""

import dataclasses
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.denoiser import Denoiser, plain
from diffusion_jax.diffusion.guidance import (
    APG,
    AutoGuidance,
    CalibratedGuidance,
    ClassifierFreeGuidance,
    EntropyGuidance,
    Interval,
    Models,
    Rescale,
)
from diffusion_jax.diffusion.guidance.classifier import entropy_factor
from diffusion_jax.diffusion.process import Level, from_eps, from_x_0
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.diffusion.samplers.ddpm import additional_variance
from diffusion_jax.diffusion.schedules import float64_transitions, make_schedule
from tests.diffusion.mixture import affine_map
from tests.parity.case import Case, Check
from tests.parity.compare import compare

LEVEL = Level(0.0, 0.8, 0.6)


def nhwc(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -3, -1)


def number_in(pattern: str, case: Case) -> float:
    """A number that only the description of a case has."""
    found = re.search(pattern, case.meta['description'])
    assert found, f'the description has no {pattern}'
    return float(found[1])


def all_known(case: Case, *patterns: str) -> None:
    unknown = [key for key in case.arrays if not any(re.fullmatch(each, key) for each in patterns)]
    assert not unknown, f'nothing compares {unknown}'


def is_entropy(case: Case) -> bool:
    return any(re.fullmatch(r'factor_\d+_float64', key) for key in case.meta.get('arrays', ()))


def check_entropy(case: Case) -> None:
    """The release has no floor; with ours the factor is the smaller of its value and log K/floor.

    In float32 log p of the likeliest class is rounded, and so is H: by up to one unit of 1.
    """
    all_known(case, r'logits_\d+', r'factor_\d+(_float64)?')
    floor = EntropyGuidance().floor
    for key in (key for key in case.arrays if key.startswith('logits_')):
        logits, size = case.arrays[key], key.removeprefix('logits_')
        exact, most = case.arrays[f'factor_{size}_float64'], np.log(logits.shape[-1])
        for dtype, rtol in ((np.float32, 2e-5), (np.float64, 1e-8)):
            rounding = exact**2 * np.finfo(dtype).eps / most
            with jax.enable_x64(dtype is np.float64):
                log_probs = jax.nn.log_softmax(jnp.asarray(logits, dtype))
                released, bounded = entropy_factor(log_probs, 0.0), entropy_factor(log_probs, floor)
            compare('entropy factor', released, exact, rtol=rtol, rounding=lambda r=rounding: r, detail=key)
            compare(
                'entropy factor, bounded', bounded, np.minimum(exact, most / floor), rtol=rtol, detail=key
            )


def is_calibrated(case: Case) -> bool:
    return {'pred_xstart', 'add_value'} <= set(case.meta.get('arrays', ()))


def check_calibrated(case: Case) -> None:
    """The gradient at x̂_0 and the additional variance."""
    gradient = r'gradient_joint([\d.]+)_margin([\d.]+)'
    other = ('W', 'b', 'pred_xstart', 'y', 'add_value', 'add_value_t', 'max_variance', 'gamma_factor')
    all_known(case, gradient, *other, 'num_timesteps')
    factor = number_in(r'f\(x\) = ([\d.]+) tanh', case)
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype is np.float64):
            x_0, W, b = (jnp.asarray(case.arrays[key], dtype) for key in ('pred_xstart', 'W', 'b'))
            x_0, y = jnp.moveaxis(x_0, 1, -1), jnp.asarray(case.arrays['y'])

            def logits(x, level, W=W, b=b):
                return factor * jnp.tanh(jnp.moveaxis(x, -1, 1).reshape(len(x), -1) @ W.T + b)

            denoise = plain(lambda x_t, level, x_0=x_0: from_x_0(x_0, x_t, level))
            for key in (key for key in case.arrays if key.startswith('gradient_')):
                joint, margin = map(float, re.fullmatch(gradient, key).groups())
                guidance = CalibratedGuidance(case.meta['scale'], joint, joint * margin, logits)
                ours = guidance.wrap(denoise, Models(y=y))(x_0, LEVEL)[0].gradient
                compare('gradient at x_0', ours, nhwc(case.arrays[key]), rtol=2e-5, atol=5e-6, detail=key)
    names = ('max_variance', 'add_value_t', 'num_timesteps', 'gamma_factor')
    with jax.enable_x64(True):
        ours = additional_variance(*(jnp.asarray(case.arrays[name], np.float64) for name in names))
        compare('additional variance', jnp.maximum(ours, 0), case.arrays['add_value'], rtol=1e-9, atol=1e-15)


def is_apg(case: Case) -> bool:
    return any(key.startswith('setting_') for key in case.meta.get('arrays', ())) and 'cond' in case.arrays


def check_apg(case: Case) -> None:
    """A sequence of evaluations with the average carried along; and the rescaled extrapolation."""
    all_known(case, 'cond', 'uncond', r'(paper|toolkit|setting)_\w+', r'cfg_rescale_phi[\d.]+')
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype is np.float64):
            cond, uncond = (jnp.asarray(nhwc(case.arrays[key]), dtype) for key in ('cond', 'uncond'))
            for key in (key for key in case.arrays if key.startswith('setting_')):
                name, (scale, momentum, eta, radius) = key.removeprefix('setting_'), case.arrays[key]
                fields = {'radius': radius} if radius > 0 else {}
                fields |= {} if np.isnan(momentum) else {'momentum': momentum}
                guidance = APG(ClassifierFreeGuidance(scale), eta=eta, **fields)
                ours = sequence(guidance, cond, uncond)
                paper, toolkit = (nhwc(case.arrays[f'{kind}_{name}']) for kind in ('paper', 'toolkit'))
                compare('APG', ours, paper, rtol=1e-5, atol=2e-5, detail=name)
                once = dataclasses.replace(guidance, guidance=ClassifierFreeGuidance(2.0))
                update = sequence(once, cond, uncond) - cond
                released = uncond + scale * update
                compare('APG from D_weak', released, toolkit, rtol=1e-5, atol=5e-5, detail=name)
            for key in (key for key in case.arrays if key.startswith('cfg_rescale')):
                scale, phi = number_in(r'w = ([\d.]+) on step 0', case), float(key.partition('phi')[2])
                ours = rescaled(Rescale(ClassifierFreeGuidance(scale), phi), cond[0], uncond[0])
                compare('rescaled', ours, nhwc(case.arrays[key]), rtol=1e-5, atol=2e-5, detail=key)


def sequence(guidance: APG, cond: jax.Array, uncond: jax.Array) -> jax.Array:
    """The predictions of x_0 at evaluations 0, 1, …; level.t is the position."""

    def of(x_0: jax.Array) -> Denoiser:
        return plain(lambda x_t, level: from_x_0(x_0[level.t], x_t, level))

    denoise, found = guidance.wrap(of(cond), Models(null=of(uncond))), []
    memory = denoise.init(cond[0])
    for position in range(len(cond)):
        prediction, memory = denoise(cond[0], LEVEL._replace(t=position), memory)
        found.append(prediction.x_0)
    return jnp.stack(found)


def rescaled(guidance: Rescale, cond: jax.Array, uncond: jax.Array) -> jax.Array:
    """The prediction of eps."""

    def of(eps: jax.Array) -> Denoiser:
        return plain(lambda x_t, level: from_eps(eps, x_t, level))

    denoise = guidance.wrap(of(cond), Models(null=of(uncond)))
    return denoise(cond, LEVEL, denoise.init(cond))[0].eps


def is_two_gaussians(case: Case) -> bool:
    return {'interval', 'scales'} <= case.meta.keys() and 'uncond_cov' in case.arrays


def check_two_gaussians(case: Case) -> None:
    """The law of what is sampled under extrapolation from one Gaussian to another, exactly."""
    size, (low, high) = len(case.arrays['cond_mean']), case.meta['interval']
    families = {
        'cfg': (ClassifierFreeGuidance, 'null', 'uncond'),
        'autoguidance': (AutoGuidance, 'weak', 'guide'),
    }
    samplers = {'ddim': (DDIM(), 'fixed_small'), 'ddim_interval': (DDIM(), 'fixed_small')}
    samplers |= {'ddim_eta1': (DDIM(eta=1.0), 'fixed_small')}
    samplers |= {'ddpm_small': (DDPM(), 'fixed_small'), 'ddpm_large': (DDPM(), 'fixed_large')}

    def law(family: str, sampler: str, steps: str) -> Callable[[float], tuple[jax.Array, jax.Array]]:
        ours, variance = samplers[sampler]
        table = float64_transitions(make_schedule('linear', 1000, steps))
        grid = jax.tree.map(lambda a: a[::-1], table)
        kind, field, name = families[family]
        strong, weak = (gaussian(case, each, variance) for each in ('cond', name))

        def moments(scale: float) -> tuple[jax.Array, jax.Array]:
            guidance = kind(scale)
            guidance = Interval(guidance, low, high) if sampler == 'ddim_interval' else guidance
            denoise = guidance.wrap(strong, Models(**{field: weak}))
            offset, columns = affine_map(ours, denoise, grid, size, draws=1)
            return offset, columns.T @ columns

        return jax.jit(moments)

    laws = {}
    with jax.enable_x64(True):
        for key in (key for key in case.arrays if key.endswith('/mean') and '/target/' not in key):
            family, sampler, scale, steps, _ = key.split('/')
            if (family, sampler, steps) not in laws:
                laws[family, sampler, steps] = law(family, sampler, steps)
            mean, covariance = laws[family, sampler, steps](float(scale[1:]))
            for name, ours in (('mean', mean), ('cov', covariance)):
                recorded = case.arrays[key.removesuffix('mean') + name]
                compare(f'{name} under extrapolation', ours, recorded, rtol=1e-6, atol=1e-9, detail=key)


def gaussian(case: Case, name: str, variance: str):
    """The exact denoiser of N(mean, cov), images [1, 1, d]."""
    mean, (variances, axes) = case.arrays[f'{name}_mean'], np.linalg.eigh(case.arrays[f'{name}_cov'])

    def predict(x_t, level):
        gain = level.alpha * variances / (level.alpha**2 * variances + level.sigma**2)
        return from_x_0(mean + (x_t - level.alpha * mean) @ axes * gain @ axes.T, x_t, level)

    return plain(predict, variance=variance)


CHECKS = [
    Check('guidance for classes', is_entropy, check_entropy),
    Check('guidance for classes', is_calibrated, check_calibrated),
    Check('guidance for classes', is_apg, check_apg),
    Check('guidance for classes', is_two_gaussians, check_two_gaussians),
]
