"""Models that others published in the authors' format, by the names of their files without `.pt`.

Networks and processes are those of the flags in their public code:
    ffhq_10m, afhq_dog_4m                jychoi118/ilvr_adm, README
                                         (DPS2022/diffusion-posterior-sampling, configs/model_config.yaml)
    edm_*                                openai/consistency_models, scripts/launch.sh, cm/unet.py
    cifar10_*, imagenet64_*, upsample_*, lsun_uncond_*
                                         openai/improved-diffusion, README, improved_diffusion/script_util.py
"""

import dataclasses
from typing import Any

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.diffusion.samplers import Heun
from diffusion_jax.models import UNetConfig
from diffusion_jax.weights.published import ADM_TABLE_5, NOT_MEASURED, Published, Released, fid, unguided
from diffusion_jax.weights.released import LEVELS, LINEAR

# Their networks are evaluated at any σ; these are 1,000 levels of them.
EDM = DiffusionConfig(schedule='edm', prediction='edm', variance='fixed_small')
EDM_HEUN = Published('heun', Recipe(Heun(), (), 'karras:40'))  # 79 evaluations, as in their script


def _unet(size: int, channels: int, blocks: int, **changes: Any) -> UNetConfig:
    shape: dict[str, Any] = {'image_size': (size, size), 'channel_mult': LEVELS[size]}
    return UNetConfig(**shape, model_channels=channels, num_res_blocks=blocks, **changes)


def _edm(size: int, channels: int, blocks: int, **changes: Any) -> Released:
    network = _unet(size, channels, blocks, qkv_order='new', out_channels=3, dropout=0.1, **changes)
    return Released(network, EDM, published=(EDM_HEUN, *unguided()))


def _improved(network: UNetConfig, diffusion: DiffusionConfig, mark: str = NOT_MEASURED) -> Released:
    return Released(network, diffusion, published=unguided(mark))


ILVR = Released(_unet(256, 128, 1, attention_resolutions=(16,)), LINEAR, published=unguided())
PLAIN: dict[str, Any] = {  # the UNet of Improved DDPM
    'attention_resolutions': (16, 8),
    'num_head_channels': None,
    'resblock_updown': False,
}
CIFAR_10 = UNetConfig(image_size=(32, 32), channel_mult=(1, 2, 2, 2), num_res_blocks=3, dropout=0.3, **PLAIN)
IMAGENET_64 = _unet(64, 128, 3, **PLAIN)
HYBRID = DiffusionConfig(schedule='cosine', num_timesteps=4000, rescale_timesteps=True, loss='rescaled_mse')
BOUND = dataclasses.replace(HYBRID, loss='rescaled_kl')
LSUN = _unet(
    256, 128, 2, **PLAIN | {'attention_resolutions': (16,), 'num_heads': 1, 'scale_shift_norm': False}
)

COMMUNITY: dict[str, Released] = {
    'ffhq_10m': ILVR,
    'afhq_dog_4m': ILVR,
    'edm_imagenet64_ema': _edm(64, 192, 3, num_classes=1000),
    'edm_bedroom256_ema': _edm(256, 256, 2, scale_shift_norm=False),
    'edm_cat256_ema': _edm(256, 256, 2, scale_shift_norm=False),
    'cifar10_uncond_50M_500K': _improved(CIFAR_10, HYBRID),
    'cifar10_uncond_vlb_50M_500K': _improved(CIFAR_10, BOUND),
    'imagenet64_uncond_100M_1500K': _improved(IMAGENET_64, HYBRID),
    'imagenet64_uncond_vlb_100M_1500K': _improved(IMAGENET_64, BOUND),
    'imagenet64_cond_270M_250K': _improved(
        _unet(64, 192, 3, num_classes=1000, **PLAIN),
        DiffusionConfig(schedule='cosine', num_timesteps=4000),
        fid('2.92', f'{ADM_TABLE_5}, IDDPM'),
    ),
    'upsample_cond_500K': _improved(
        _unet(256, 192, 2, num_classes=1000, low_res=True, **PLAIN), DiffusionConfig(num_timesteps=4000)
    )._replace(low_res_size=(64, 64)),
    'lsun_uncond_100M_1200K_bs128': _improved(LSUN, LINEAR),
    'lsun_uncond_100M_2400K_bs64': _improved(LSUN, LINEAR),
}
