"""From trained networks to images; `load` and `show` are for notebooks."""

from diffusion_jax.generation.generator import Generator
from diffusion_jax.generation.grid import show
from diffusion_jax.generation.loading import load
from diffusion_jax.generation.purification import purify
from diffusion_jax.generation.sampling import Samples, Trajectory, generate, trajectory

__all__ = ['Generator', 'Samples', 'Trajectory', 'generate', 'load', 'purify', 'show', 'trajectory']
