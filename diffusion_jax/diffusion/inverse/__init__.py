"""Inverse problems y = A x_0 + noise: operators, measurements, and the methods that sample x_0 given y."""

from diffusion_jax.diffusion.inverse.measurement import Measurement
from diffusion_jax.diffusion.inverse.operators import (
    Blur,
    Dense,
    Downsample,
    Gray,
    Mask,
    Operator,
    adjoint,
    dense,
)

__all__ = ['Blur', 'Dense', 'Downsample', 'Gray', 'Mask', 'Measurement', 'Operator', 'adjoint', 'dense']
