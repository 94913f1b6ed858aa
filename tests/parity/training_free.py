"""Training-free guidance and Adam guidance against the authors' code, on Gaussian data.

Recorded vectors [B, d] are images [B, 1, 1, d]. The denoiser E[x_0|x_t] is computed from the recorded mean
and covariance; the log-likelihood is −‖y − A·x_0‖²/(2·s_y²).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.diffusion.guidance import Adam, ClassifierGuidance, Models, ReconstructionGuidance
from diffusion_jax.diffusion.jumps import travelled
from diffusion_jax.diffusion.process import Level
from diffusion_jax.diffusion.samplers import DDIM, TFG, Sampler, sample
from diffusion_jax.diffusion.schedules import between, with_clean
from tests.diffusion.linear_gaussian import LinearGaussian
from tests.parity.case import Case, Check
from tests.parity.compare import compare

INPUTS = {'m', 'C', 'A', 'y', 's_y', 'x', 'noise', 't', 'alpha_bar'}
TFG_OPTIONS = {'rho', 'mu', 'sigma', 'eps_bsz', 'iter_steps', 'recur_steps'}
ADAM_OPTIONS = {'guidance_strength', 'beta1', 'beta2'}
DESCRIPTION = {'description', 'arrays', 'replayed_from_this_file_max_difference'}


class Run(NamedTuple):
    """A sampler with guidance; where each draw stands in the record; and how often a step is taken.

    draws: (step, repetition, i) → the row of draw i, None where there is none; i = −1 is the noise that is
      added after a repetition.
    rows: how many draws were recorded.
    """

    sampler: Sampler
    guidance: Any
    draws: Callable[[int, int, int], int | None]
    rows: int
    times: int = 1


def has(options: set[str]) -> Callable[[Case], bool]:
    return lambda case: options < case.meta.keys() and case.meta['arrays'].keys() == INPUTS


def tfg(case: Case, log_prob: Any) -> Run:
    """The release's ρ_t and μ_t have the mean ρ and μ over the steps; ours are multiples of ᾱ/ᾱ′."""
    options, alpha_bar = case.meta, case.arrays['alpha_bar']
    mean = np.mean(alpha_bar / np.append(alpha_bar[1:], 1.0))
    count, times, steps = options['eps_bsz'], options['recur_steps'], len(alpha_bar)
    numbers = {'rho': options['rho'] / mean, 'mu': options['mu'] / mean, 'spread': options['sigma']}
    sampler = TFG(**numbers, log_prob=log_prob, draws=count, inner=options['iter_steps'])

    def draws(step: int, repetition: int, i: int) -> int | None:
        last = step == steps - 1  # which has no noise of the step
        row = (step * times + repetition) * (count + 2) - (repetition if last else 0)
        if i == 0:
            return None if last else row + count
        return row + i - 1 if i > 0 else row + count + (0 if last else 1)

    return Run(sampler, None, draws, times * (steps * (count + 2) - 1), times)


def adam(case: Case, log_prob: Any) -> Run:
    """adam_dps: in the step, through the denoiser; adam_cg: in eps, of the likelihood at x_t itself."""
    options, steps = case.meta, len(case.arrays['t'])
    sampler, inner = {
        'adam_dps': (TFG(), ReconstructionGuidance(1.0, log_prob)),
        'adam_cg': (DDIM(1.0), ClassifierGuidance(1.0, log_prob)),
    }[options['description'].partition(':')[0]]
    guidance = Adam(inner, options['guidance_strength'], options['beta1'], options['beta2'])
    return Run(sampler, guidance, lambda step, _, i: step if step < steps - 1 else None, steps - 1)


def states(case: Case, run: Run, data: LinearGaussian, dtype: type) -> np.ndarray:
    """x before every step and at the end, [N + 1, B, d]."""
    recorded, alpha_bar = case.arrays['noise'], case.arrays['alpha_bar']
    levels = Level(case.arrays['t'].astype(np.float64), np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))
    levels, steps = with_clean(levels), len(alpha_bar)
    assert len(recorded) == run.rows
    grid = between(travelled(levels, 1, run.times))
    places = []
    for step in range(steps):
        for repetition in range(run.times):
            places.append((step, repetition, False))
            places += [(step, repetition, True)] * (repetition < run.times - 1)
    size = getattr(run.sampler, 'draws', 0) + 1
    tape = np.zeros((len(places), size, *recorded.shape[1:]))
    for place, (step, repetition, up) in enumerate(places):
        for i in range(1 if up else size):
            row = run.draws(step, repetition, -1 if up else i)
            tape[place, i] = 0.0 if row is None else recorded[row]
    images = data.as_images(tape.astype(dtype))
    denoise = data.denoiser()
    denoise = run.guidance.wrap(denoise, Models()) if run.guidance else denoise
    grid = jax.tree.map(lambda a: a if a.dtype == bool else a.astype(dtype), grid)

    @jax.jit
    def found(x_T):
        def noise_at(position, i):
            return jnp.asarray(images)[position - 1, i]

        return sample(run.sampler, denoise, grid, noise_at, x_T, record=lambda state, *_: state.x)

    state, before = found(jnp.asarray(data.as_images(case.arrays['x'][0]), dtype))
    first = [k for k, (_, repetition, up) in enumerate(places) if not repetition and not up]
    return np.concatenate([before[np.array(first)], state.x[None]]).reshape(case.arrays['x'].shape)


def check_with(make: Callable[[Case, Any], Run], options: set[str], tolerance: float):
    def check(case: Case) -> None:
        unknown = case.meta.keys() - options - DESCRIPTION
        assert not unknown, f'options that are not known: {sorted(unknown)}'
        data = LinearGaussian(*(case.arrays[key] for key in ('m', 'C', 'A', 'y', 's_y')))
        recorded = case.arrays['x']
        with jax.enable_x64(True):
            ours = states(case, make(case, data.likelihood), data, np.float64)
        compare('states under training-free guidance', ours, recorded, atol=tolerance, detail=case.name)

    return check


CHECKS = [
    Check('posterior', has(TFG_OPTIONS), check_with(tfg, TFG_OPTIONS, 1e-4)),
    Check('posterior', has(ADAM_OPTIONS), check_with(adam, ADAM_OPTIONS, 1e-3)),
]
