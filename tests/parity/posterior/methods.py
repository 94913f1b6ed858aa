"""The methods of recorded laws by their keys: `ddrm_eta0.85_etab0.5` → sampler, guidance and variance."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from diffusion_jax.diffusion.guidance import (
    ClassifierGuidance,
    Guidance,
    Interval,
    Models,
    ReconstructionGuidance,
)
from diffusion_jax.diffusion.inverse import DAPS, DDNM, DDRM, DPS, DiffPIR, PiGDM, RePaint
from diffusion_jax.diffusion.parts import Part, static
from diffusion_jax.diffusion.samplers import DDIM, DDPM, Sampler
from tests.parity.posterior.model import Model
from tests.parity.posterior.released import (
    AddedGradient,
    IdealDAPS,
    LikelihoodTwice,
    ReleasedStart,
    Simplified,
)


class Method(Part):
    sampler: Sampler
    guidance: tuple[Guidance, ...] = ()
    variance: str = static(default='fixed_small')

    def denoiser(self, model: Model):
        denoise = model.denoiser(self.variance)
        for guidance in self.guidance:
            denoise = guidance.wrap(denoise, Models())
        return denoise


Options = dict[str, Any]
# Options in keys, where the json has no entry for the method.
IN_KEYS = {
    'eta': 'eta',
    's': 'scale',
    'etab': 'etab',
    'lam': 'lam',
    'zeta': 'zeta',
    'jump': 'jump_length',
    'n': 'jump_n_sample',
}


def read_options(key: str, recorded: Options | None) -> Options:
    """From the json; the options that its entry leaves out, from the key."""
    found: Options = {}
    for word in key.split('_'):
        match = re.fullmatch(r'([a-z]*)(\d+(?:\.\d+)?)', word)
        if match and (match[1] in IN_KEYS or not match[1]):
            found[IN_KEYS.get(match[1], 'zeta')] = float(match[2])
        if word in ('small', 'large'):
            found['variance'] = word
    return found | (recorded or {})


def ancestral_or_ddim(options: Options) -> tuple[Sampler, str]:
    if 'variance' in options:
        return DDPM(), 'fixed_' + options['variance']
    return DDIM(eta=options.get('eta', 0.0)), 'fixed_small'


def unguided(model: Model, options: Options) -> Method:
    sampler, variance = ancestral_or_ddim(options)
    return Method(sampler, (), variance)


def guided(model: Model, options: Options) -> Method:
    sampler, variance = ancestral_or_ddim(options)
    scale, interval = options['scale'], options.get('interval_of_sigma_over_alpha')
    if interval is None:
        return Method(sampler, (ClassifierGuidance(scale, model.log_prob),), variance)
    assert options['outside'] == 'scale 1'
    more = Interval(ClassifierGuidance(scale - 1, model.log_prob), *interval)
    return Method(sampler, (ClassifierGuidance(1.0, model.log_prob), more), variance)


def pigdm_score(model: Model, options: Options) -> Method:
    sampler, variance = ancestral_or_ddim(options)
    return Method(sampler, (PiGDM(model.measurement, options.get('scale', 1.0)),), variance)


def pigdm_paper(model: Model, options: Options) -> Method:
    return Method(AddedGradient(options['eta']), (PiGDM(model.measurement),))


def dpslik(model: Model, options: Options) -> Method:
    sampler, variance = ancestral_or_ddim(options)
    return Method(sampler, (ReconstructionGuidance(options['scale'], model.log_likelihood),), variance)


def dps(squared: bool) -> Callable[[Model, Options], Method]:
    return lambda model, options: Method(DPS(model.measurement, options['zeta'], squared))


def ddnm(model: Model, options: Options) -> Method:
    return Method(DDNM(model.measurement, options['eta']))


def ddnm_ancestral(model: Model, options: Options) -> Method:
    return Method(DDNM(model.measurement, ancestral=True))


def ddnm_plus(model: Model, options: Options) -> Method:
    return Method(DDRM(model.measurement, options['eta'], given_y=False))


def simplified(released: bool) -> Callable[[Model, Options], Method]:
    return lambda model, options: Method(Simplified(model.measurement, options['eta'], released))


def ddrm(model: Model, options: Options) -> Method:
    return Method(ReleasedStart(model.measurement, options['eta'], options['etab']))


def diffpir(model: Model, options: Options) -> Method:
    return Method(DiffPIR(model.measurement, options['lam'], options['zeta']))


def repaint(model: Model, options: Options) -> Method:
    return Method(
        RePaint(dataclasses.replace(model.measurement, noise=0.0)),
        (),
        'fixed_' + options.get('variance', 'small'),
    )


def daps(kind: type[DAPS]) -> Callable[[Model, Options], Method]:
    def make(model: Model, options: Options) -> Method:
        extra = {'model': model} if kind is IdealDAPS else {}
        sampler = kind(
            model.measurement,
            options['lr'],
            options['lr_min_ratio'],
            options['ode_sigma_min'],
            options['ode_steps'],
            options['langevin_steps'],
            **extra,
        )
        return Method(sampler)

    return make


# The first that begins the key.
FAMILIES: dict[str, Callable[[Model, Options], Method]] = {
    'unguided_': unguided,
    'guided_': guided,
    'pigdm_score_': pigdm_score,
    'pigdm_paper_': pigdm_paper,
    'dpslik_': dpslik,
    'dps_const_': dps(squared=True),
    'dps_norm_': dps(squared=False),
    'ddnm_plus_svd_': ddnm_plus,
    'ddnm_plus_simple_paper_': simplified(released=False),
    'ddnm_plus_simple_official_': simplified(released=True),
    'ddnm_ancestral': ddnm_ancestral,
    'ddnm_eta': ddnm,
    'ddrm_': ddrm,
    'diffpir_': diffpir,
    'repaint_': repaint,
    'daps_ideal': daps(IdealDAPS),
    'daps_langevin_half': daps(DAPS),
    'daps_langevin_released': daps(LikelihoodTwice),
}


def make_method(key: str, model: Model, options: Options) -> Method:
    """AssertionError for a key of another kind."""
    family = next((name for name in FAMILIES if key.startswith(name)), None)
    assert family is not None, f'{key}: no check knows this method'
    return FAMILIES[family](model, options)
