"""Inverse problems y = A x_0 + noise: operators, measurements, and the methods that sample x_0 given y.

docs/inverse_problems.md compares the methods: their cost, and what they sample where the posterior is known.
"""

from diffusion_jax.diffusion.inverse.daps import DAPS
from diffusion_jax.diffusion.inverse.ddrm import DDRM
from diffusion_jax.diffusion.inverse.dps import DPS
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
from diffusion_jax.diffusion.inverse.pigdm import PiGDM
from diffusion_jax.diffusion.inverse.projections import DDNM, DiffPIR, RePaint
from diffusion_jax.diffusion.inverse.reddiff import REDDiff
