"""A few hundred colour images of your own on a small machine: 32×32 RGB, class-conditional and guided.

    python -m diffusion_jax.main --config=photos --config.data.path=images --workdir=runs/photos

Folder: images/train/<class>/*.jpg (or png, webp, …), about 50 images a class or more. Images are scaled and
cropped to the centre square once, which takes 0.25 s for a photo of a camera. Without images of your own:
`python experiments/photo_crops.py images` creates six classes. docs/tutorial.md goes through all steps, and
configs/photos_upsampler.py enlarges samples from 16×16 to 64×64.

Hardware: 2 CPU cores, 2 GB of memory. CPU time: 19 minutes at 32×32 and 6 at 16×16 (measured on an AMD EPYC
    that was shared with other programs: 1.8 GB).
Expect: colours, textures and shapes of each class, where its images are alike; see samples/grid.png, which
    has a row for each class. Classes of very different images need more training.
    On the six classes an independent classifier agrees with all labels (experiments/photos_acceptance.py).

The network also learns images of no class: --config.sample.guidance=classifier_free:scale=2 guides without a
classifier, and --config.sample.guidance=classifier_free:scale=0 samples without classes.
Images without labels, or of one class, may lie at any depth below images/train and need no classifier:
    --stage=train,sample --config.data.labels=none --config.sample.scale=0 \\
    --config.unet.class_conditional=False --config.unet.label_dropout=0
For faster steps: --config.data.image_size=16,16. With more time: first more steps
(--config.train.num_steps=20000), then larger images (any multiple of 4). For text and other images that must
not be mirrored: --config.train.flip=False --config.train_classifier.flip=False. With a test split,
images/test/<class>, --config.train_classifier.validate_every=100 logs the accuracy of the classifier. For a
GPU use the config folder.
"""

from ml_collections import ConfigDict

from diffusion_jax.config import with_defaults


def get_config() -> ConfigDict:
    # Plain resampling, one block a level and no dropout: for so few steps, more of them are worth more.
    trunk = {
        'model_channels': 32,
        'num_res_blocks': 1,
        'attention_resolutions': (),  # the middle block has attention in any case
        'num_head_channels': 32,
        'norm_groups': 8,  # with 32, a group of one channel would lose its mean, the colour of the image
        'resblock_updown': False,
        'conv_resample': False,
    }
    return with_defaults(
        stages=('train', 'train_classifier', 'sample'),
        data={
            'name': 'auto',
            'path': 'images',
            'image_size': (32, 32),
            'image_channels': 3,
        },
        diffusion={'schedule': 'cosine', 'prediction': 'v', 'loss': 'rescaled_mse'},
        unet=trunk | {'channel_mult': (1, 2, 4), 'class_conditional': True, 'label_dropout': 0.1},
        classifier=trunk | {'channel_mult': (1, 2, 2), 'pool': 'attention'},
        train={
            'num_steps': 2500,
            'batch_size': 8,
            'flip': True,
            'learning_rate': 1e-3,
            'learning_rate_schedule': 'cosine',
            'warmup_steps': 100,
            'ema_rates': (0.995,),
            'ema_warmup': True,
            'log_every': 100,
            'sample_every': 1000,
            'checkpoint_every': 500,
        },
        train_classifier={
            'num_steps': 300,
            'batch_size': 32,
            'flip': True,
            'learning_rate': 1e-3,
            'learning_rate_schedule': 'cosine',
            'weight_decay': 0.05,
            'ema_rates': (),
            'log_every': 50,
            'checkpoint_every': 300,
        },
        sample={
            'sampler': 'ddpm',
            'respacing': '50',
            'scale': 3.0,
            'num_samples': 96,
            'batch_size': 48,
            'ema_rate': 0.995,
            'unguided': True,
        },
    )
