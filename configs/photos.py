"""A few hundred colour images of one's own on a small machine: 32×32 RGB, guided by a classifier.

    python -m diffusion_jax.main --config=configs/photos.py --config.data.path=images --config.data.num_classes=4

Folder: images/train/<class>/*.jpg (or png, gif), at least 50 images a class. Images of any size are scaled and
cropped to the centre square. They are decoded again at every step: reduce camera photos first, for example to
128 pixels, or decoding takes longer than training. To try it without images of your own:
`python experiments/photo_crops.py images` writes 400 crops of four photographs.

Hardware: 2 CPU cores and 3 GB of memory. Time: TODO
Expect: TODO

Images without labels, or of one class, need no classifier; they may be anywhere below images/train:
    --stage=train,sample --config.data.labels=none --config.data.num_classes=1 --config.sample.scale=0
More time: --config.train.num_steps=8000. Text and other images that must not be mirrored: --config.train.flip=False,
and the same for train_classifier. On a GPU use configs/folder.py, or this with a longer training in
larger batches (--config.train.batch_size=128). To watch the classifier on images that it was not
trained on, put some in images/test/<class> and set --config.train_classifier.validate_every=100.
"""

from ml_collections import ConfigDict

from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    # Plain resampling instead of ADM's residual blocks: TODO
    trunk = {
        'model_channels': 32,
        'num_res_blocks': 1,
        'attention_resolutions': (8,),
        'num_head_channels': 32,
        'resblock_updown': False,
        'conv_resample': False,
    }
    return with_defaults(
        stages=('train', 'train_classifier', 'sample'),
        data={
            'name': 'folder',
            'path': 'images',
            'num_classes': 2,
            'image_size': (32, 32),
            'image_channels': 3,
        },
        diffusion={'schedule': 'cosine', 'prediction': 'v', 'loss': 'rescaled_mse'},
        unet=trunk | {'channel_mult': (1, 2, 4)},
        classifier=trunk | {'channel_mult': (1, 2, 2), 'pool': 'attention'},
        train={
            'num_steps': 2000,
            'batch_size': 16,
            'flip': True,
            'learning_rate': 1e-3,
            'learning_rate_schedule': 'cosine',
            'warmup_steps': 100,
            'ema_rates': (0.995,),
            'ema_warmup': True,
            'log_every': 100,
            'sample_every': 500,
            'checkpoint_every': 500,
        },
        train_classifier={
            'num_steps': 500,
            'batch_size': 32,
            'flip': True,
            'learning_rate': 1e-3,
            'learning_rate_schedule': 'cosine',
            'weight_decay': 0.05,
            'ema_rates': (),
            'log_every': 50,
            'checkpoint_every': 250,
        },
        sample={
            'sampler': 'ddim',
            'respacing': 'ddim50',
            'scale': 3.0,
            'num_samples': 40,
            'batch_size': 40,
            'ema_rate': 0.995,
            'unguided': True,
        },
    )
