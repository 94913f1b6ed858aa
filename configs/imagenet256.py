"""ImageNet 256×256: class-conditional ADM with classifier guidance (ADM-G).

Sample: python -m diffusion_jax.main --config=imagenet256 --stage=sample \\
            --config.pretrained.diffusion=256x256_diffusion.safetensors \\
            --config.pretrained.classifier=256x256_classifier.safetensors \\
            --config.sample.num_samples=16 --config.sample.classes=207,388
    With 25 steps: --config.sample.recipe=paper-ddim, which is DDIM at scale 2.5
Train: the same without --stage and --config.pretrained; ImageNet as a folder, see `recipes.imagenet`. The
    paper took 1,980,000 steps of 256 images, 962 days of a V100 with the classifier; 750,000 steps (393
    days) gave FID 6.49.
Evaluate: --stage=evaluate; 50,000 samples, random labels, against VIRTUAL_imagenet256_labeled.npz and with
    inception.safetensors, both in the working folder or as config.evaluate.reference and .inception say.
Expect: FID 4.59. In the paper (tables 4 and 5; FID/sFID/IS/precision/recall) it is 4.59/5.25/186.70/.82/.52
    with DDPM-250, unguided 10.94/6.02/100.98/.69/.63; 5.44/5.32/-/.81/.49 with DDIM-25.
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
