"""Guidance: functions from denoiser to denoiser. A new one is one file here and one line in GUIDANCES."""

from diffusion_jax.diffusion.guidance.ascent import AscentGuidance
from diffusion_jax.diffusion.guidance.classifier import ClassifierGuidance, classifier_guidance
from diffusion_jax.diffusion.guidance.classifier_free import ClassifierFreeGuidance, extrapolate
from diffusion_jax.diffusion.guidance.guidance import Function, Guidance, Models
from diffusion_jax.diffusion.guidance.modifiers import Interval, Modifier, Reuse
from diffusion_jax.diffusion.guidance.monte_carlo import MonteCarloGuidance
from diffusion_jax.diffusion.guidance.reconstruction import ReconstructionGuidance, reconstruction_guidance
from diffusion_jax.diffusion.guidance.reward import Reward, reward
from diffusion_jax.diffusion.guidance.step_sizes import Adam, GradientModifier, Normalized
from diffusion_jax.diffusion.guidance.threshold import DynamicThreshold, threshold

GUIDANCES: dict[str, type[Guidance]] = {
    'classifier': ClassifierGuidance,
    'classifier_free': ClassifierFreeGuidance,
    'reconstruction': ReconstructionGuidance,
    'threshold': DynamicThreshold,
    'monte_carlo': MonteCarloGuidance,
    'ascent': AscentGuidance,
    'reward': Reward,
}
MODIFIERS: dict[str, type[Modifier]] = {
    'interval': Interval,
    'reuse': Reuse,
    'normalized': Normalized,
    'adam': Adam,
}

__all__ = [
    'GUIDANCES',
    'MODIFIERS',
    'Adam',
    'AscentGuidance',
    'ClassifierFreeGuidance',
    'ClassifierGuidance',
    'DynamicThreshold',
    'Function',
    'GradientModifier',
    'Guidance',
    'Interval',
    'Models',
    'Modifier',
    'MonteCarloGuidance',
    'Normalized',
    'ReconstructionGuidance',
    'Reuse',
    'Reward',
    'classifier_guidance',
    'extrapolate',
    'reconstruction_guidance',
    'reward',
    'threshold',
]
