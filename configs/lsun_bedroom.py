"""LSUN bedroom 256×256: unconditional ADM with dropout.

Sample: python -m diffusion_jax.main --config=lsun_bedroom --stage=sample \\
            --config.pretrained.diffusion=lsun_bedroom.safetensors --config.sample.num_samples=16
    The best 250 steps that the paper found (table 15): --config.sample.respacing=90,60,60,20,20
Train: the same without --stage and --config.pretrained; the images of the category in lsun/bedroom/. The
    paper took 500,000 steps of 256 images.
Evaluate: --stage=evaluate; 50,000 samples against VIRTUAL_lsun_bedroom256.npz and with
    inception.safetensors, both in the working folder or as config.evaluate.reference and .inception say.
Expect: FID 1.90. In the paper (tables 5 and 15; FID/sFID/precision/recall) it is 1.90/5.59/.66/.51
    with all 1,000 steps; FID 2.02 with 90,60,60,20,20 and 2.31 with 250 evenly spaced ones.
"""

from ml_collections import ConfigDict

from diffusion_jax import recipes
from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    return with_defaults(
        stages=('train', 'sample'),
        data=recipes.lsun('bedroom'),
        diffusion=recipes.diffusion('lsun_bedroom'),
        unet=recipes.network('lsun_bedroom'),
        train=recipes.diffusion_training(500_000),
        sample=recipes.sampling('lsun_bedroom'),
        evaluate=recipes.evaluation('lsun_bedroom256'),
    )
