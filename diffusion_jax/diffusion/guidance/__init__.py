"""Guidance: functions from denoiser to denoiser, and the parts of a recipe that stand for them.

A new guidance is one file here and one line in GUIDANCES.
"""

from diffusion_jax.diffusion.guidance.classifier import ClassifierGuidance, classifier_guidance
from diffusion_jax.diffusion.guidance.classifier_free import ClassifierFreeGuidance, extrapolate
from diffusion_jax.diffusion.guidance.guidance import Function, Guidance, Models, Modifier
from diffusion_jax.diffusion.guidance.interval import Interval, within
from diffusion_jax.diffusion.guidance.reconstruction import ReconstructionGuidance, reconstruction_guidance
from diffusion_jax.diffusion.guidance.reuse import Reuse, reused

GUIDANCES: dict[str, type[Guidance]] = {
    'classifier': ClassifierGuidance,
    'classifier_free': ClassifierFreeGuidance,
    'reconstruction': ReconstructionGuidance,
}
# These act on the guidance before them.
MODIFIERS: dict[str, type[Modifier]] = {'interval': Interval, 'reuse': Reuse}

__all__ = [
    'GUIDANCES',
    'MODIFIERS',
    'ClassifierFreeGuidance',
    'ClassifierGuidance',
    'Function',
    'Guidance',
    'Interval',
    'Models',
    'Modifier',
    'ReconstructionGuidance',
    'Reuse',
    'classifier_guidance',
    'extrapolate',
    'reconstruction_guidance',
    'reused',
    'within',
]
