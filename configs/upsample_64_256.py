"""ImageNet from 64×64 to 256×256: the class-conditional upsampler (ADM-U).

It upsamples samples of configs/imagenet64.py: of a run of it, which the command below samples first, or
existing ones, --config.sample.base_samples=runs/imagenet64/samples --config.sample.seed=1 (another seed than
theirs). docs/upsampling.md has more.

Sample: python -m diffusion_jax.main --config=upsample_64_256 --stage=sample \\
            --config.pretrained.diffusion=64_256_upsampler.safetensors \\
            --config.base.diffusion=runs/imagenet64 --config.sample.num_samples=64
    In 25 steps: --config.sample.recipe=paper-ddim
Train: python -m diffusion_jax.main --config=upsample_64_256 --stage=train
    ImageNet is a folder, see `recipes.imagenet`. The paper trained for 500,000 steps of 256 images.
Evaluate: --stage=evaluate compares 50,000 samples with
    VIRTUAL_imagenet256_labeled.npz, using inception.safetensors. Both files are in the current
    folder, or are named by config.evaluate.reference and config.evaluate.inception.
Expect: FID 3.94 from guided base samples. The paper reports for DDPM-250 (table 6;
    FID/sFID/IS/precision/recall) 3.94/6.14/215.84/.83/.53 from guided base samples and
    7.49/5.13/127.49/.72/.63 from unguided ones. The upsampler itself is never guided.
"""

from ml_collections import ConfigDict

from diffusion_jax import recipes
from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    return with_defaults(
        stages=('train', 'sample'),
        data=recipes.imagenet(256, low_res_size=(64, 64)),
        diffusion=recipes.diffusion('64_256_upsampler'),
        unet=recipes.network('64_256_upsampler'),
        train=recipes.diffusion_training(500_000),
        sample=recipes.sampling('64_256_upsampler'),
        evaluate=recipes.evaluation('imagenet256_labeled'),
    )
