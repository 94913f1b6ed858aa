"""Guidance: functions from denoiser to denoiser. A new one is one file here and one line in GUIDANCES."""

from diffusion_jax.diffusion.guidance.autoguidance import AutoGuidance
from diffusion_jax.diffusion.guidance.classifier import ClassifierGuidance, classifier_guidance
from diffusion_jax.diffusion.guidance.classifier_free import ICG, ClassifierFreeGuidance
from diffusion_jax.diffusion.guidance.clean import CalibratedGuidance, CleanGuidance, clean_guidance
from diffusion_jax.diffusion.guidance.entropy import EntropyGuidance, entropy_guidance
from diffusion_jax.diffusion.guidance.extrapolation import Extrapolation, extrapolate
from diffusion_jax.diffusion.guidance.guidance import Function, Guidance, Models
from diffusion_jax.diffusion.guidance.mixture import MixtureGuidance
from diffusion_jax.diffusion.guidance.modifiers import Interval, Modifier, Reuse
from diffusion_jax.diffusion.guidance.perturbed_attention import PAG
from diffusion_jax.diffusion.guidance.projection import APG, Rescale
from diffusion_jax.diffusion.guidance.reconstruction import ReconstructionGuidance, reconstruction_guidance
from diffusion_jax.diffusion.guidance.scales import Ramp, Scheduled, Varying, innermost, scaled
from diffusion_jax.diffusion.guidance.self_attention import SAG

GUIDANCES: dict[str, type[Guidance]] = {
    'classifier': ClassifierGuidance,
    'entropy': EntropyGuidance,
    'mixture': MixtureGuidance,
    'clean': CleanGuidance,
    'calibrated': CalibratedGuidance,
    'reconstruction': ReconstructionGuidance,
    'classifier_free': ClassifierFreeGuidance,
    'icg': ICG,
    'auto': AutoGuidance,
    'pag': PAG,
    'sag': SAG,
}
MODIFIERS: dict[str, type[Modifier]] = {
    'interval': Interval,
    'reuse': Reuse,
    'ramp': Ramp,
    'rescale': Rescale,
    'apg': APG,
}

__all__ = [
    'APG',
    'GUIDANCES',
    'ICG',
    'MODIFIERS',
    'PAG',
    'SAG',
    'AutoGuidance',
    'CalibratedGuidance',
    'ClassifierFreeGuidance',
    'ClassifierGuidance',
    'CleanGuidance',
    'EntropyGuidance',
    'Extrapolation',
    'Function',
    'Guidance',
    'Interval',
    'MixtureGuidance',
    'Models',
    'Modifier',
    'Ramp',
    'ReconstructionGuidance',
    'Rescale',
    'Reuse',
    'Scheduled',
    'Varying',
    'classifier_guidance',
    'clean_guidance',
    'entropy_guidance',
    'extrapolate',
    'innermost',
    'reconstruction_guidance',
    'scaled',
]
