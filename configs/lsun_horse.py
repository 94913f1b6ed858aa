"""LSUN horse 256×256: unconditional ADM with dropout.

Sample: python -m diffusion_jax.main --config=lsun_horse --stage=sample \\
            --config.pretrained.diffusion=lsun_horse.safetensors --config.sample.num_samples=16
    The best 250 steps that the paper found (table 15): --config.sample.respacing=90,60,60,20,20
Train: the same without --stage and --config.pretrained; the images of the category in lsun/horse/. The
    paper took 250,000 steps of 256 images, 116 days of a V100.
Evaluate: --stage=evaluate; 50,000 samples against VIRTUAL_lsun_horse256.npz and with
    inception.safetensors, both in the working folder or as config.evaluate.reference and .inception say.
Expect: FID 2.57. In the paper (tables 5 and 15; FID/sFID/precision/recall) it is 2.57/6.81/.71/.55
    with all 1,000 steps; FID 2.83 with 90,60,60,20,20 and 3.45 with 250 evenly spaced ones;
    2.95/5.94/.69/.55 without dropout, the file lsun_horse_nodropout with --config.unet.dropout=0.
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
