"""Samplers: one file a family, one shared loop. A new one is a class here and a line in SAMPLERS."""

from diffusion_jax.diffusion.samplers.adams import IPNDM, AdamsBashforth
from diffusion_jax.diffusion.samplers.ddim import DDIM, ddim_kernel
from diffusion_jax.diffusion.samplers.ddpm import DDPM, EluCD, ancestral_kernel
from diffusion_jax.diffusion.samplers.dpm_solver import (
    DPMSolverPP2M,
    DPMSolverPP2MSDE,
    DPMSolverPP2S,
    DPMSolverPP3M,
    DPMSolverPP3MSDE,
    DPMSolverPP3S,
)
from diffusion_jax.diffusion.samplers.heun import EDM_IMAGENET64, Heun
from diffusion_jax.diffusion.samplers.loop import Image, Noise, Sampler, Started, sample
from diffusion_jax.diffusion.samplers.smc import SMC, Particles, propose
from diffusion_jax.diffusion.samplers.training_free import TFG
from diffusion_jax.diffusion.samplers.unipc import UniPC, UniPCBH1

SAMPLERS: dict[str, type[Sampler]] = {
    'ddpm': DDPM,
    'ddim': DDIM,
    'heun': Heun,
    'dpmpp_2m': DPMSolverPP2M,
    'dpmpp_3m': DPMSolverPP3M,
    'dpmpp_2s': DPMSolverPP2S,
    'dpmpp_3s': DPMSolverPP3S,
    'dpmpp_2m_sde': DPMSolverPP2MSDE,
    'dpmpp_3m_sde': DPMSolverPP3MSDE,
    'unipc': UniPC,
    'unipc_bh1': UniPCBH1,
    'adams': AdamsBashforth,
    'ipndm': IPNDM,
    'tfg': TFG,
    'smc': SMC,
    'elucd': EluCD,
}
