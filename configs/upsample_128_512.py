"""ImageNet from 128×128 to 512×512: the class-conditional upsampler (ADM-U).

It upsamples samples of configs/imagenet128.py: of a run of it, which the command below samples first, or
existing ones, --config.sample.base_samples=runs/imagenet128/samples --config.sample.seed=1 (another seed than
theirs). docs/upsampling.md has more.

Sample: python -m diffusion_jax.main --config=upsample_128_512 --stage=sample \\
            --config.pretrained.diffusion=128_512_upsampler.safetensors \\
            --config.base.diffusion=runs/imagenet128 --config.sample.num_samples=16
    In 25 steps: --config.sample.recipe=paper-ddim
Train: python -m diffusion_jax.main --config=upsample_128_512 --stage=train
    ImageNet is a folder, see `recipes.imagenet`. The paper trained for 1,050,000 steps of 256 images.
Evaluate: --stage=evaluate compares 50,000 samples with
    VIRTUAL_imagenet512.npz, using inception.safetensors. Both files are in the current
    folder, or are named by config.evaluate.reference and config.evaluate.inception.
Expect: FID 3.85 from guided base samples. The paper reports (table 6; FID/sFID/IS/precision/recall by the
    steps of base model and upsampler), from guided base samples, 3.85/5.86/221.72/.84/.53 with 250 and 250,
    4.11/9.57/219.29/.83/.55 with 250 and 25, 5.96/12.10/187.87/.81/.54 with 25 and 25; from unguided ones
    9.96/5.62/121.78/.75/.64. The upsampler itself is never guided.

The classifier that guides the paper's base samples was trained with other settings than those of
configs/imagenet128.py: 1,024 images a step and a learning rate of 6e-5 (table 12).
"""

from ml_collections import ConfigDict

from diffusion_jax import recipes
from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    return with_defaults(
        stages=('train', 'sample'),
        data=recipes.imagenet(512, low_res_size=(128, 128)),
        diffusion=recipes.diffusion('128_512_upsampler'),
        unet=recipes.network('128_512_upsampler'),
        train=recipes.diffusion_training(1_050_000),
        sample=recipes.sampling('128_512_upsampler', batch_size=16),
        evaluate=recipes.evaluation('imagenet512'),
    )
