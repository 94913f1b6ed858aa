"""LSUN horse 256×256: unconditional ADM with dropout.

Sample: python -m diffusion_jax.main --config=lsun_horse --stage=sample \\
            --config.pretrained.diffusion=lsun_horse.safetensors --config.sample.num_samples=16
    The best 250 steps of the paper (table 15): --config.sample.respacing=90,60,60,20,20
Train: the same command without --stage and --config.pretrained. The images are in lsun/horse/. The paper
    trained for 250,000 steps of 256 images, 116 V100 days.
Evaluate: --stage=evaluate compares 50,000 samples with
    VIRTUAL_lsun_horse256.npz, using inception.safetensors. Both files are in the current
    folder, or are named by config.evaluate.reference and config.evaluate.inception.
Expect: FID 2.57. The paper reports (tables 5 and 15; FID/sFID/precision/recall) 2.57/6.81/.71/.55 with
    all 1,000 steps. With 90,60,60,20,20 the FID is 2.83, with 250 equally spaced steps 3.45. Without dropout
    it is 2.95/5.94/.69/.55: the file lsun_horse_nodropout with --config.unet.dropout=0.
"""

from ml_collections import ConfigDict

from diffusion_jax import recipes
from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    return with_defaults(
        stages=('train', 'sample'),
        data=recipes.lsun('horse'),
        diffusion=recipes.diffusion('lsun_horse'),
        unet=recipes.network('lsun_horse'),
        train=recipes.diffusion_training(250_000),
        sample=recipes.sampling('lsun_horse'),
        evaluate=recipes.evaluation('lsun_horse256'),
    )
