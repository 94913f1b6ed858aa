"""LSUN cat 256×256: unconditional ADM with dropout.

Sample: python -m diffusion_jax.main --config=lsun_cat --stage=sample \\
            --config.pretrained.diffusion=lsun_cat.safetensors --config.sample.num_samples=16
    The best 250 steps that the paper found (table 15): --config.sample.respacing=90,60,60,20,20
Train: the same without --stage and --config.pretrained; the images of the category in lsun/cat/. The paper
    took 200,000 steps of 256 images, 92 days of a V100.
Evaluate: --stage=evaluate; 50,000 samples against VIRTUAL_lsun_cat256.npz and with
    inception.safetensors, both in the working folder or as config.evaluate.reference and .inception say.
Expect: FID 5.57. In the paper (tables 5 and 15; FID/sFID/precision/recall) it is 5.57/6.69/.63/.52
    with all 1,000 steps; FID 5.94 with 90,60,60,20,20 and 7.03 with 250 evenly spaced ones.
"""

from ml_collections import ConfigDict

from diffusion_jax import recipes
from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    return with_defaults(
        stages=('train', 'sample'),
        data=recipes.lsun('cat'),
        diffusion=recipes.diffusion('lsun_cat'),
        unet=recipes.network('lsun_cat'),
        train=recipes.diffusion_training(200_000),
        sample=recipes.sampling('lsun_cat'),
        evaluate=recipes.evaluation('lsun_cat256'),
    )
