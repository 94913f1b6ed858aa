"""Guidance: functions from denoiser to denoiser. A new one is a class here and one line in GUIDANCES."""

from diffusion_jax.diffusion.guidance.classifier import (
    ClassifierGuidance,
    EntropyGuidance,
    MixtureGuidance,
    classifier_guidance,
)
from diffusion_jax.diffusion.guidance.clean import AscentGuidance, CalibratedGuidance, CleanGuidance, Reward
from diffusion_jax.diffusion.guidance.extrapolation import (
    ICG,
    PAG,
    SAG,
    AutoGuidance,
    ClassifierFreeGuidance,
    Extrapolation,
)
from diffusion_jax.diffusion.guidance.guidance import Function, Guidance, Models
from diffusion_jax.diffusion.guidance.modifiers import Interval, Modifier, Reuse
from diffusion_jax.diffusion.guidance.reconstruction import MonteCarloGuidance, ReconstructionGuidance
from diffusion_jax.diffusion.guidance.saturation import APG, DynamicThreshold, Rescale
from diffusion_jax.diffusion.guidance.strength import (
    Adam,
    GradientModifier,
    Normalized,
    Ramp,
    Scheduled,
    Varying,
    innermost,
    scaled,
)

GUIDANCES: dict[str, type[Guidance]] = {
    'classifier': ClassifierGuidance,
    'entropy': EntropyGuidance,
    'mixture': MixtureGuidance,
    'clean': CleanGuidance,
    'calibrated': CalibratedGuidance,
    'reconstruction': ReconstructionGuidance,
    'threshold': DynamicThreshold,
    'monte_carlo': MonteCarloGuidance,
    'ascent': AscentGuidance,
    'reward': Reward,
    'classifier_free': ClassifierFreeGuidance,
    'icg': ICG,
    'auto': AutoGuidance,
    'pag': PAG,
    'sag': SAG,
}
MODIFIERS: dict[str, type[Modifier]] = {
    'interval': Interval,
    'reuse': Reuse,
    'normalized': Normalized,
    'adam': Adam,
    'ramp': Ramp,
    'rescale': Rescale,
    'apg': APG,
}
