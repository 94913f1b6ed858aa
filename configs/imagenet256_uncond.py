"""ImageNet 256×256: an unconditional ADM that is guided by the classifier.

Sample: python -m diffusion_jax.main --config=imagenet256_uncond --stage=sample \\
            --config.pretrained.diffusion=256x256_diffusion_uncond.safetensors \\
            --config.pretrained.classifier=256x256_classifier.safetensors \\
            --config.sample.num_samples=16 --config.sample.classes=207,388
Train: the same command without --stage and --config.pretrained. ImageNet is a folder, see
    `recipes.imagenet`. The paper trained for 2,000,000 steps of 256 images.
Evaluate: --stage=evaluate compares 50,000 samples with random labels with
    VIRTUAL_imagenet256_labeled.npz, using inception.safetensors. Both files are in the current
    folder, or are named by config.evaluate.reference and config.evaluate.inception.
Expect: FID 12.00. The paper reports for DDPM-250 (table 4; FID/sFID/IS/precision/recall)
    12.00/10.40/95.41/.76/.44 at scale 10, which this config has, 33.03/6.99/32.92/.56/.65 at scale 1, and
    26.21/6.35/39.70/.61/.63 without guidance.
"""

from ml_collections import ConfigDict

from diffusion_jax import recipes
from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    return with_defaults(
        stages=('train', 'train_classifier', 'sample'),
        data=recipes.imagenet(256),
        diffusion=recipes.diffusion('256x256_diffusion_uncond'),
        unet=recipes.network('256x256_diffusion_uncond'),
        classifier=recipes.network('256x256_classifier'),
        train=recipes.diffusion_training(2_000_000),
        train_classifier=recipes.classifier_training(500_000),
        sample=recipes.sampling('256x256_diffusion_uncond'),
        evaluate=recipes.evaluation('imagenet256_labeled'),
    )
