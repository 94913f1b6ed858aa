"""The digits with the smallest networks and a few steps: what the files in this folder were made with."""

from ml_collections import ConfigDict

from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    trunk = {
        'model_channels': 8,
        'channel_mult': (4,),
        'num_res_blocks': 1,
        'attention_resolutions': (),
        'num_head_channels': 32,
    }
    training = {
        'batch_size': 16,
        'learning_rate': 1e-2,
        'learning_rate_schedule': 'cosine',
        'log_every': 1,
        'checkpoint_every': 0,
    }
    return with_defaults(
        stages=('train', 'train_classifier', 'sample', 'likelihood'),
        data={'name': 'digits', 'image_size': (8, 8), 'image_channels': 1, 'num_classes': 10},
        diffusion={
            'schedule': 'cosine',
            'num_timesteps': 50,
            'prediction': 'v',
            'loss': 'rescaled_mse',
        },
        unet=trunk | {'dropout': 0.1},
        classifier=trunk | {'pool': 'attention'},
        train=training | {'num_steps': 4, 'ema_rates': (0.995,), 'ema_warmup': True},
        train_classifier=training | {'num_steps': 4, 'weight_decay': 0.05, 'ema_rates': ()},
        sample={
            'sampler': 'ddim',
            'respacing': 'ddim5',
            'scale': 2.0,
            'eta': 0.5,
            'num_samples': 10,
            'batch_size': 16,
        },
        likelihood={'num_images': 8, 'batch_size': 8, 'respacing': '5'},
    )
