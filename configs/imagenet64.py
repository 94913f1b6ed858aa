"""ImageNet 64×64: ADM with dropout, and its classifier.

Sample: python -m diffusion_jax.main --config=imagenet64 --stage=sample \\
            --config.pretrained.diffusion=64x64_diffusion.safetensors \\
            --config.pretrained.classifier=64x64_classifier.safetensors --config.sample.num_samples=64
Train: the same command without --stage and --config.pretrained. ImageNet is a folder, see
    `recipes.imagenet`. The paper trained for 540,000 steps of 2,048 images, which needs many accelerators.
Evaluate: --stage=evaluate compares 50,000 samples with random labels with
    VIRTUAL_imagenet64_labeled.npz, using inception.safetensors. Both files are in the current
    folder, or are named by config.evaluate.reference and config.evaluate.inception.
Expect: FID 2.07 with scale 0. The paper reports for DDPM-250 (table 5; FID/sFID/precision/recall)
    2.07/4.29/.74/.63 without guidance, which is --config.sample.scale=0, and 2.61/3.77/.73/.63 without
    dropout. Guidance is known to increase the FID at this size; this config has the scale of table 14, 1.0.
"""

from ml_collections import ConfigDict

from diffusion_jax import recipes
from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    return with_defaults(
        stages=('train', 'train_classifier', 'sample'),
        data=recipes.imagenet(64),
        diffusion=recipes.diffusion('64x64_diffusion'),
        unet=recipes.network('64x64_diffusion'),
        classifier=recipes.network('64x64_classifier'),
        train=recipes.diffusion_training(540_000, batch_size=2048, learning_rate=3e-4),
        train_classifier=recipes.classifier_training(
            300_000, batch_size=1024, learning_rate=6e-4, weight_decay=0.2
        ),
        sample=recipes.sampling('64x64_diffusion', batch_size=256),
        evaluate=recipes.evaluation('imagenet64_labeled'),
    )
