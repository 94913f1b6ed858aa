"""Guidance: functions from denoiser to denoiser. A new one is one file here and one line in GUIDANCES."""

from diffusion_jax.diffusion.guidance.classifier import ClassifierGuidance, classifier_guidance
from diffusion_jax.diffusion.guidance.classifier_free import ClassifierFreeGuidance, extrapolate
from diffusion_jax.diffusion.guidance.guidance import Function, Guidance, Models
from diffusion_jax.diffusion.guidance.modifiers import Interval, Modifier, Reuse
from diffusion_jax.diffusion.guidance.reconstruction import ReconstructionGuidance, reconstruction_guidance
from diffusion_jax.diffusion.guidance.reward import Reward, reward
from diffusion_jax.diffusion.guidance.threshold import DynamicThreshold, threshold

GUIDANCES: dict[str, type[Guidance]] = {
    'classifier': ClassifierGuidance,
    'classifier_free': ClassifierFreeGuidance,
    'reconstruction': ReconstructionGuidance,
    'threshold': DynamicThreshold,
    'reward': Reward,
}
MODIFIERS: dict[str, type[Modifier]] = {'interval': Interval, 'reuse': Reuse}

__all__ = [
    'GUIDANCES',
    'MODIFIERS',
    'ClassifierFreeGuidance',
    'ClassifierGuidance',
    'DynamicThreshold',
    'Function',
    'Guidance',
    'Interval',
    'Models',
    'Modifier',
    'ReconstructionGuidance',
    'Reuse',
    'Reward',
    'classifier_guidance',
    'extrapolate',
    'reconstruction_guidance',
    'reward',
    'threshold',
]
