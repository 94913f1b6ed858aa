"""The authors' fifteen released models: the network of each, its diffusion process and its recipes.

Names are those of the files without `.pt`, as in https://github.com/openai/guided-diffusion. Settings that
the table does not name have ADM's defaults: see `TrunkConfig` and `DiffusionConfig`.
"""

from typing import Any

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.samplers import DDIM, DDPM
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.weights.published import ADM_TABLE_4, EDM_64, Published, Released, eds, fid, paper

# The channels of each level by image size.
LEVELS = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4), 512: (0.5, 1, 1, 2, 2, 4, 4)}
EDS_README = '2206.11474, README of ZGCTroy/ED-DPM'
EDS_LISTED = '2206.11474, as Papers with Code lists it, steps not stated'
EDS_128 = (eds('eds', DDPM(), '250', 0.4, fid('2.63', EDS_LISTED)),)
EDS_256 = (
    eds('eds', DDPM(), '250', 0.75, fid('3.96', EDS_README)),
    eds('eds-ddim', DDIM(), 'ddim25', 1.5, fid('4.76', EDS_README)),
)
EDS_256_UNCOND = (
    eds('eds', DDPM(), '250', 6.0, fid('7.98', EDS_README)),
    eds('eds-ddim', DDIM(), 'ddim25', 6.0, fid('10.09', EDS_README)),
)
LINEAR, COSINE = DiffusionConfig(schedule='linear'), DiffusionConfig(schedule='cosine')


def _unet(size: int, **changes: Any) -> UNetConfig:
    shape = {'image_size': (size, size), 'channel_mult': LEVELS[size]}
    return UNetConfig(**shape | {'model_channels': 256, 'num_classes': 1000} | changes)


def _guided(
    network: UNetConfig, published: tuple[Published, ...], diffusion: DiffusionConfig = LINEAR, kind: str = ''
) -> Released:
    size = network.image_size[0]
    return Released(network, diffusion, f'imagenet{size}{kind}', published, f'{size}x{size}_classifier')


def _upsampler(small: int, size: int, **changes: Any) -> Released:
    network = _unet(size, model_channels=192, low_res=True, channel_mult=LEVELS[256], **changes)
    return Released(network, LINEAR, f'upsample_{small}_{size}', paper(), low_res_size=(small, small))


def _lsun(config: str, value: str, dropout: float = 0.1) -> Released:
    network = _unet(256, num_classes=None, dropout=dropout)
    return Released(network, LINEAR, config, paper('', 0.0, None, fid(value)))


def _classifier(size: int, diffusion: DiffusionConfig = LINEAR, **changes: Any) -> Released:
    network = ClassifierConfig(image_size=(size, size), channel_mult=LEVELS[size], **changes)
    return Released(network, diffusion, f'imagenet{size}')


RELEASED: dict[str, Released] = {
    # ImageNet. No scale for DDIM is published for the first and the fourth: theirs is that for DDPM.
    '64x64_diffusion': _guided(
        _unet(64, model_channels=192, num_res_blocks=3, qkv_order='new', dropout=0.1),
        paper('250', 1.0, None, fid('2.07 at scale 0'), fid('2.07'), more=(EDM_64,)),
        COSINE,
    ),
    '128x128_diffusion': _guided(
        _unet(128, num_heads=4, num_head_channels=None),
        paper('250', 0.5, 1.25, fid('2.97'), fid('5.91'), ddim=fid('5.98'), more=EDS_128),
    ),
    '256x256_diffusion': _guided(
        _unet(256), paper('250', 1.0, 2.5, fid('4.59'), fid('10.94'), ddim=fid('5.44'), more=EDS_256)
    ),
    '256x256_diffusion_uncond': _guided(
        _unet(256, num_classes=None),
        paper('250', 10.0, None, fid('12.00', ADM_TABLE_4), fid('26.21', ADM_TABLE_4), more=EDS_256_UNCOND),
        kind='_uncond',
    ),
    '512x512_diffusion': _guided(
        _unet(512), paper('250', 4.0, 9.0, fid('7.72'), fid('23.24'), ddim=fid('8.41'))
    ),
    '64_256_upsampler': _upsampler(64, 256, num_heads=4, num_head_channels=None),
    # The paper says attention at 8 too; with six levels of 512 the smallest side is 16.
    '128_512_upsampler': _upsampler(128, 512, attention_resolutions=(32, 16)),
    'lsun_bedroom': _lsun('lsun_bedroom', '1.90'),
    'lsun_cat': _lsun('lsun_cat', '5.57'),
    'lsun_horse': _lsun('lsun_horse', '2.57'),
    'lsun_horse_nodropout': _lsun('lsun_horse', '2.95', dropout=0.0),
    '64x64_classifier': _classifier(64, COSINE, num_res_blocks=4),
    '128x128_classifier': _classifier(128),
    '256x256_classifier': _classifier(256),
    '512x512_classifier': _classifier(512),
}
