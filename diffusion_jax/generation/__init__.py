"""From trained networks to images; `load` and `show` are for notebooks."""

from diffusion_jax.generation.generate import Trajectory
from diffusion_jax.generation.generator import Generator
from diffusion_jax.generation.grid import show
from diffusion_jax.generation.loading import load

__all__ = ['Generator', 'Trajectory', 'load', 'show']
