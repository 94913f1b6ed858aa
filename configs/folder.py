"""A folder of your own images at 64×64 on a GPU: a class-conditional model with classifier guidance.

    python -m diffusion_jax.main --config=folder --workdir=runs/mine --config.data.path=images

Images: images/train/<class>/*.jpg, or any other format that Pillow decodes; or a zip, a table of labels and
other kinds of data (docs/data.md). To validate the classifier, add images/test/<class> and
--config.train_classifier.validate_every=2500.
Images without labels, or of one class, may lie at any depth below images/train and need no classifier:
    --stage=train,sample --config.data.labels=none --config.sample.scale=0 \\
    --config.unet.class_conditional=False

Hardware: a GPU with 24 GB. Computed, not measured: 131 million parameters (classifier: 16 million), 2.6 GB
for parameters, average, gradient and moments, and up to 0.64 GB of activations for each image of a
microbatch. A batch of 128 is therefore split into 8 microbatches of 16 images, 10 GB. With less memory:
--config.train.microbatches=32, or --config.unet.remat=True, which recomputes activations (0.04 GB an image)
and takes a third longer. With 80 GB: --config.train.microbatches=2.
Time: not measured. A step takes 37 TFLOP, a step of the classifier 4 TFLOP; at a sustained 100 TFLOP/s
200,000 steps take 21 hours. diffusion/grids shows samples much earlier. For a CPU, or a few hundred images,
use the config photos.
Images of 16×16: --config.data.image_size=16,16 --config.unet.attention_resolutions=16,8 \\
    --config.classifier.attention_resolutions=16,8

The networks are those of the paper's ImageNet 64×64 models at two thirds of their width (classifier: half).
No released model has this architecture; to fine-tune one, use its own config.
Expect: no number, it was never trained. It is a starting point to copy.
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
            'name': 'auto',
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
            'microbatches': 8,
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
            'microbatches': 2,
            'flip': True,
            'random_crop': True,
            'learning_rate': 3e-4,
            'learning_rate_schedule': 'linear',
            'weight_decay': 0.05,
            'ema_rates': (),
            'log_every': 100,
            'checkpoint_every': 5000,
        },
        sample={'sampler': 'ddpm', 'respacing': '250', 'scale': 1.0, 'num_samples': 64, 'batch_size': 64},
    )
