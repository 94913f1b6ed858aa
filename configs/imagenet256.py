"""ImageNet 256×256: class-conditional ADM with classifier guidance (ADM-G).

Sample: python -m diffusion_jax.main --config=imagenet256 --stage=sample \\
            --config.pretrained.diffusion=256x256_diffusion.safetensors \\
            --config.pretrained.classifier=256x256_classifier.safetensors \\
            --config.sample.num_samples=16 --config.sample.classes=207,388
    In 25 steps: --config.sample.recipe=paper-ddim, which is DDIM at scale 2.5
Train: the same command without --stage and --config.pretrained. ImageNet is a folder, see
    `recipes.imagenet`. The paper trained for 1,980,000 steps of 256 images, 962 V100 days with
    the classifier; 750,000 steps (393 days) gave FID 6.49.
Evaluate: --stage=evaluate compares 50,000 samples with random labels with
    VIRTUAL_imagenet256_labeled.npz, using inception.safetensors. Both files are in the current
    folder, or are named by config.evaluate.reference and config.evaluate.inception.
Expect: FID 4.59. The paper reports (tables 4 and 5; FID/sFID/IS/precision/recall)
    4.59/5.25/186.70/.82/.52 with DDPM-250, 10.94/6.02/100.98/.69/.63 without guidance, and
    5.44/5.32/-/.81/.49 with DDIM-25.
"""

from ml_collections import ConfigDict

from diffusion_jax import recipes
from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    return with_defaults(
        stages=('train', 'train_classifier', 'sample'),
        data=recipes.imagenet(256),
        diffusion=recipes.diffusion('256x256_diffusion'),
        unet=recipes.network('256x256_diffusion'),
        classifier=recipes.network('256x256_classifier'),
        train=recipes.diffusion_training(1_980_000),
        train_classifier=recipes.classifier_training(500_000),
        sample=recipes.sampling('256x256_diffusion'),
        evaluate=recipes.evaluation('imagenet256_labeled'),
    )
