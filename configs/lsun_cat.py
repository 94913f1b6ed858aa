"""LSUN cat 256×256: unconditional ADM with dropout.

Sample: python -m diffusion_jax.main --config=lsun_cat --stage=sample \\
            --config.pretrained.diffusion=lsun_cat.safetensors --config.sample.num_samples=16
    The best 250 steps of the paper (table 15): --config.sample.respacing=90,60,60,20,20
Train: the same command without --stage and --config.pretrained. The images are in lsun/cat/. The paper
    trained for 200,000 steps of 256 images, 92 V100 days.
Evaluate: --stage=evaluate compares 50,000 samples with
    VIRTUAL_lsun_cat256.npz, using inception.safetensors. Both files are in the current
    folder, or are named by config.evaluate.reference and config.evaluate.inception.
Expect: FID 5.57. The paper reports (tables 5 and 15; FID/sFID/precision/recall) 5.57/6.69/.63/.52 with
    all 1,000 steps. With 90,60,60,20,20 the FID is 5.94, with 250 equally spaced steps 7.03.
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
