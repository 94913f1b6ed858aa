"""ImageNet 128×128: class-conditional ADM with classifier guidance (ADM-G).

Sample: python -m diffusion_jax.main --config=imagenet128 --stage=sample \\
            --config.pretrained.diffusion=128x128_diffusion.safetensors \\
            --config.pretrained.classifier=128x128_classifier.safetensors --config.sample.num_samples=64
    In 25 steps: --config.sample.recipe=paper-ddim, which is DDIM at scale 1.25
Train: the same command without --stage and --config.pretrained. ImageNet is a folder, see
    `recipes.imagenet`. The paper trained for 4,360,000 steps of 256 images, 530 V100 days with
    the classifier; 450,000 steps (63 days) gave FID 5.67.
Evaluate: --stage=evaluate compares 50,000 samples with random labels with
    VIRTUAL_imagenet128_labeled.npz, using inception.safetensors. Both files are in the current
    folder, or are named by config.evaluate.reference and config.evaluate.inception.
Expect: FID 2.97. The paper reports (table 5; FID/sFID/precision/recall) 2.97/5.09/.78/.59 with DDPM-250,
    5.98/7.04/.78/.51 with DDIM-25, and 5.91/5.09/.70/.65 without guidance.
"""

from ml_collections import ConfigDict

from diffusion_jax import recipes
from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    return with_defaults(
        stages=('train', 'train_classifier', 'sample'),
        data=recipes.imagenet(128),
        diffusion=recipes.diffusion('128x128_diffusion'),
        unet=recipes.network('128x128_diffusion'),
        classifier=recipes.network('128x128_classifier'),
        train=recipes.diffusion_training(4_360_000),
        train_classifier=recipes.classifier_training(300_000),
        sample=recipes.sampling('128x128_diffusion', batch_size=64),
        evaluate=recipes.evaluation('imagenet128_labeled'),
    )
