"""A folder of one's own images, one sub-folder a class, on a GPU: a class-conditional model with classifier guidance.

    python -m diffusion_jax.main --config=configs/folder.py --config.data.path=images --config.data.num_classes=7

Folder: images/train/<class>/*.jpg (or png, gif) and, to validate the classifier, images/test/<class>/*.jpg.
TODO
Images without labels, or of one class; they may be anywhere below images/train:
    --stage=train,sample --config.data.labels=none --config.data.num_classes=1 --config.sample.scale=0 \\
    --config.unet.class_conditional=False
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
            'num_classes': 2,
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
