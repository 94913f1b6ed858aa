"""Enlarge samples of configs/photos.py from 16×16 to 64×64 pixels, by an upsampler of the same images.

    python -m diffusion_jax.main --config=photos_upsampler --workdir=runs/large \\
        --config.data.path=images --config.sample.base_samples=runs/small/samples

The samples are those of configs/photos.py with --config.data.image_size=16,16 and --workdir=runs/small.

Folder: that of configs/photos.py. Images of at least 64×64 pixels; smaller ones are enlarged, and then their
missing detail is what is learned.

Hardware: 2 CPU cores, 2 GB of memory. CPU time: 20 minutes (measured on an AMD EPYC that was shared with
    other programs: 1.8 GB).
Expect: enlargements like photographs of each class. Parts of the photographs that were not trained on keep
    their colours, too: reduced again, they differ by 3.6 of 255 from the small image
    (experiments/photos_acceptance.py).

Images without labels: --config.data.labels=none --config.unet.class_conditional=False.
"""

from ml_collections import ConfigDict

from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    return with_defaults(
        stages=('train', 'sample'),
        data={
            'name': 'auto',
            'path': 'images',
            'image_size': (64, 64),
            'image_channels': 3,
            'low_res_size': (16, 16),
        },
        diffusion={'schedule': 'cosine', 'prediction': 'v', 'loss': 'rescaled_mse'},
        unet={
            'model_channels': 32,
            'channel_mult': (1, 2, 2),
            'num_res_blocks': 1,
            'attention_resolutions': (),  # the middle block has attention in any case
            'num_head_channels': 32,
            'norm_groups': 8,  # with 32, a group of one channel would lose its mean, the colour of the image
            'resblock_updown': False,
            'conv_resample': False,
            'class_conditional': True,
        },
        train={
            'num_steps': 2500,
            'batch_size': 4,
            'flip': True,
            'learning_rate': 1e-3,
            'learning_rate_schedule': 'cosine',
            'warmup_steps': 100,
            'ema_rates': (0.995,),
            'ema_warmup': True,
            'log_every': 100,
            'checkpoint_every': 500,
        },
        sample={
            'sampler': 'dpmpp_2m_sde',
            'respacing': 'log_snr:15',
            'scale': 0.0,
            'num_samples': 96,
            'batch_size': 16,
            'seed': 1,  # another than that of the base samples: equal ones would share noise
        },
    )
