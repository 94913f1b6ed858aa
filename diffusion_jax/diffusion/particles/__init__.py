"""Weighted populations of images: resampling, and potentials that reward particles on their way.

A batch [B] consists of B/P populations of P particles each, one after the other.
"""

from diffusion_jax.diffusion.particles.potentials import POTENTIALS, Lineage, remainder
from diffusion_jax.diffusion.particles.resampling import (
    RESAMPLING,
    Resampled,
    effective_sample_size,
    log_mean_exp,
    multinomial,
    resample,
    systematic,
    take,
)

__all__ = [
    'POTENTIALS',
    'RESAMPLING',
    'Lineage',
    'Resampled',
    'effective_sample_size',
    'log_mean_exp',
    'multinomial',
    'remainder',
    'resample',
    'systematic',
    'take',
]
