"""Autoguidance (2406.02507): extrapolation from a second, weaker diffusion model to the model.

    D = D_weak + w·(D − D_weak)

Here weak is a smaller or less trained network for the same classes, or one without classes: the released
unconditional model is a weak model for the released conditional one, and gives it classifier-free guidance.
"""

from __future__ import annotations

from typing import ClassVar

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.guidance.extrapolation import Extrapolation
from diffusion_jax.diffusion.guidance.guidance import Models


class AutoGuidance(Extrapolation):
    """Extrapolation from a second diffusion model.

    Attributes:
      scale: w; 1 is the model, 0 the second one.
    """

    needs: ClassVar[tuple[str, ...]] = ('weak',)

    def weak(self, models: Models) -> Denoiser:
        return models.weak
