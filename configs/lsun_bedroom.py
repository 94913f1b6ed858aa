"""LSUN bedroom 256×256: unconditional ADM with dropout.

Sample: python -m diffusion_jax.main --config=lsun_bedroom --stage=sample \\
            --config.pretrained.diffusion=lsun_bedroom.safetensors --config.sample.num_samples=16
    The best 250 steps of the paper (table 15): --config.sample.respacing=90,60,60,20,20
Train: the same command without --stage and --config.pretrained. The images are in lsun/bedroom/. The paper
    trained for 500,000 steps of 256 images.
Evaluate: --stage=evaluate compares 50,000 samples with
    VIRTUAL_lsun_bedroom256.npz, using inception.safetensors. Both files are in the current
    folder, or are named by config.evaluate.reference and config.evaluate.inception.
Expect: FID 1.90. The paper reports (tables 5 and 15; FID/sFID/precision/recall) 1.90/5.59/.66/.51 with
    all 1,000 steps. With 90,60,60,20,20 the FID is 2.02, with 250 equally spaced steps 2.31.
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
