"""Perturbed-attention guidance (2403.17377): extrapolation away from the model with broken self-attention.

    ε̂ = ε_perturbed + w·(ε − ε_perturbed)

In some blocks the map softmax(q·kᵀ) is replaced by the identity: each pixel attends to itself. It needs no
classes and no other network. w is 1 plus the scale s of that paper.
"""

from __future__ import annotations

from typing import ClassVar

from diffusion_jax.diffusion.denoiser import Denoiser
from diffusion_jax.diffusion.guidance.extrapolation import Extrapolation
from diffusion_jax.diffusion.guidance.guidance import Models
from diffusion_jax.diffusion.parts import static


class PAG(Extrapolation):
    """Extrapolation from the model with the identity as self-attention.

    Attributes:
      scale: w; 1 is the model.
      blocks: of the network: 'middle', 'encoder.14', 'decoder.3'. For the released models of 256×256 the
        authors use encoder.14, encoder.16, encoder.17 and middle.
    """

    blocks: tuple[str, ...] = static(default=('middle',), values=tuple)
    needs: ClassVar[tuple[str, ...]] = ('perturbed',)

    def weak(self, models: Models) -> Denoiser:
        return models.perturbed(self.blocks)
