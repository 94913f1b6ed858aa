"""A folder of one's own images, one sub-folder a class: a class-conditional model with classifier guidance.

    python -m diffusion_jax.main --config=folder --workdir=runs/mine \\
        --config.data.path=images --config.data.num_classes=7

Expects images/train/<class>/*.jpg and, to validate the classifier, images/test/<class>/*.jpg; png, webp, tiff
and the other formats that Pillow decodes will do, too.
For images without labels copy this file, set labels='none' and num_classes=1 in data, scale=0 in sample, and
take out class_conditional, the stage train_classifier, and the sections classifier and train_classifier.
The networks are those of the paper's ImageNet 64×64 models at two thirds of their width (classifier: half).
No released model has this architecture: to fine-tune one, use its own config.
Expect: no number, it was never trained. A starting point to copy.
"""

from ml_collections import ConfigDict

from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    trunk = {
        'channel_mult': (1, 2, 3, 4),
        'attention_resolutions': (32, 16, 8),
        'num_head_channels': 64,
        'dtype': 'bfloat16',
    }
    return with_defaults(
        stages=('train', 'train_classifier', 'sample'),
        data={
            'name': 'folder',
            'path': 'images',
            'image_size': (64, 64),
            'image_channels': 3,
            'num_workers': 4,
        },
        diffusion={'schedule': 'cosine', 'loss': 'rescaled_mse'},
        unet=trunk | {'model_channels': 128, 'num_res_blocks': 3, 'dropout': 0.1, 'class_conditional': True},
        classifier=trunk | {'model_channels': 64, 'num_res_blocks': 4},
        train={
            'num_steps': 200_000,
            'batch_size': 128,
            'flip': True,
            'learning_rate': 1e-4,
            'ema_rates': (0.9999,),
            'ema_warmup': True,
            'log_every': 100,
            'sample_every': 5000,
            'checkpoint_every': 5000,
        },
        train_classifier={
            'num_steps': 50_000,
            'batch_size': 128,
            'flip': True,
            'random_crop': True,
            'learning_rate': 3e-4,
            'learning_rate_schedule': 'linear',
            'weight_decay': 0.05,
            'ema_rates': (),
            'log_every': 100,
            'validate_every': 2500,
            'checkpoint_every': 5000,
        },
        sample={'sampler': 'ddpm', 'respacing': '250', 'scale': 1.0, 'num_samples': 64, 'batch_size': 64},
    )
