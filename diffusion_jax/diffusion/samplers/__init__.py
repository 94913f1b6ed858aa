"""Samplers: one file a family, one shared loop. A new sampler is one file here and one line in SAMPLERS."""

from diffusion_jax.diffusion.samplers.ddim import DDIM, ddim_kernel
from diffusion_jax.diffusion.samplers.ddpm import DDPM, ancestral_kernel
from diffusion_jax.diffusion.samplers.dpm_solver import DPMSolverPP2M
from diffusion_jax.diffusion.samplers.elucd import EluCD
from diffusion_jax.diffusion.samplers.heun import Heun
from diffusion_jax.diffusion.samplers.loop import sample
from diffusion_jax.diffusion.samplers.sampler import Image, Noise, Sampler

SAMPLERS: dict[str, type[Sampler]] = {
    'ddpm': DDPM,
    'ddim': DDIM,
    'heun': Heun,
    'dpmpp_2m': DPMSolverPP2M,
    'elucd': EluCD,
}

__all__ = [
    'DDIM',
    'DDPM',
    'SAMPLERS',
    'DPMSolverPP2M',
    'EluCD',
    'Heun',
    'Image',
    'Noise',
    'Sampler',
    'ancestral_kernel',
    'ddim_kernel',
    'sample',
]
