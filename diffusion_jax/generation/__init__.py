"""From trained networks to images; `load` and `show` are for notebooks."""

from diffusion_jax.generation.generator import Generator, load
from diffusion_jax.generation.grid import show

__all__ = ['Generator', 'load', 'show']
