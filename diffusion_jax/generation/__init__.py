"""From trained networks to images; `load` and `show` are for notebooks."""

from diffusion_jax.generation.cascade import Cascade
from diffusion_jax.generation.generator import Generator
from diffusion_jax.generation.grid import show
from diffusion_jax.generation.interpolation import interpolate
from diffusion_jax.generation.loading import load
from diffusion_jax.generation.purification import purify
from diffusion_jax.generation.sampling import Samples, generate
from diffusion_jax.generation.stored_grids import save_grid
from diffusion_jax.generation.trajectories import Trajectory, choose_grid, trajectory

__all__ = [
    'Cascade',
    'Generator',
    'Samples',
    'Trajectory',
    'choose_grid',
    'generate',
    'interpolate',
    'load',
    'purify',
    'save_grid',
    'show',
    'trajectory',
]
