"""ImageNet 512×512: class-conditional ADM with classifier guidance (ADM-G).

Sample: python -m diffusion_jax.main --config=imagenet512 --stage=sample \\
            --config.pretrained.diffusion=512x512_diffusion.safetensors \\
            --config.pretrained.classifier=512x512_classifier.safetensors --config.sample.num_samples=16
    In 25 steps: --config.sample.recipe=paper-ddim, which is DDIM at scale 9
Train: the same command without --stage and --config.pretrained. ImageNet is a folder, see
    `recipes.imagenet`. The paper trained for 1,940,000 steps of 256 images.
Evaluate: --stage=evaluate compares 50,000 samples with random labels with
    VIRTUAL_imagenet512.npz, using inception.safetensors. Both files are in the current
    folder, or are named by config.evaluate.reference and config.evaluate.inception.
Expect: FID 7.72. The paper reports (table 6; FID/sFID/IS/precision/recall) 7.72/6.57/172.71/.87/.42 with
    DDPM-250, 23.24/10.19/58.06/.73/.60 without guidance, and 8.41/9.67/-/.83/.47 with DDIM-25.

The diffusion model computes in float32, as in the authors' command for this size.
"""

from ml_collections import ConfigDict

from diffusion_jax import recipes
from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    return with_defaults(
        stages=('train', 'train_classifier', 'sample'),
        data=recipes.imagenet(512),
        diffusion=recipes.diffusion('512x512_diffusion'),
        unet=recipes.network('512x512_diffusion', dtype='float32'),
        classifier=recipes.network('512x512_classifier'),
        train=recipes.diffusion_training(1_940_000),
        train_classifier=recipes.classifier_training(500_000),
        sample=recipes.sampling('512x512_diffusion', batch_size=16),
        evaluate=recipes.evaluation('imagenet512'),
    )
