"""Train two networks, some hundred times smaller, to run the notebook without an accelerator.

    python experiments/notebooks/shrunk.py weights

They are trained on four photographs that come with scikit-image and scikit-learn, cropped at random and
mirrored, 24×24 pixels each. The labels are ImageNet's, so that the rest of the notebook is the same as
with the released weights. Needs the extra `experiments`; about ten minutes on 2 CPU cores.

Photographs: cat, Stéfan van der Walt, and coffee, Rachel Michetti, both CC0; tower in Beijing's Summer
Palace, danielbuechele, and dahlia, vultilion, both CC BY 2.0.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from skimage import data as photographs
from sklearn.datasets import load_sample_image

from diffusion_jax.data.classes import label_of
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.imagenet import all_names, class_names
from diffusion_jax.data.pipeline import batches
from diffusion_jax.data.sources.base import ArraySource
from diffusion_jax.data.transforms import cover, make_transform
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig
from diffusion_jax.report import Progress
from diffusion_jax.sharding import make_mesh, put_batch
from diffusion_jax.training.config import TrainConfig
from diffusion_jax.training.metrics import means
from diffusion_jax.training.objectives import Objective, classifier_objective, diffusion_objective
from diffusion_jax.training.program import first_state, train_program
from diffusion_jax.weights.files import Spec, save_weights

SIZE = (24, 24)
TRUNK = {
    'image_size': SIZE,
    'model_channels': 32,
    'channel_mult': (1, 2),
    'num_res_blocks': 1,
    'attention_resolutions': (12,),
    'num_head_channels': 32,
}
UNET = UNetConfig(**TRUNK, num_classes=1000)
CLASSIFIER = ClassifierConfig(**TRUNK)
DIFFUSION = DiffusionConfig(schedule='cosine', prediction='v', loss='rescaled_mse')
EMA_RATE = 0.99
TRAIN = {
    'batch_size': 16,
    'flip': True,
    'random_crop': True,
    'learning_rate': 1e-3,
    'learning_rate_schedule': 'cosine',
    'warmup_steps': 50,
    'ema_rates': (EMA_RATE,),
    'ema_warmup': True,
}


def source() -> ArraySource:
    """One photograph a class; the subject of each fills a square."""
    images = {
        'tabby': photographs.chelsea()[:, 80:380],
        'espresso': photographs.coffee()[:, 100:500],
        'daisy': load_sample_image('flower.jpg')[40:400, 140:500],
        'palace': load_sample_image('china.jpg')[:, :427],
    }
    shrunk = [cover(image, (64, 64)) for image in images.values()]
    labels = [label_of(name, all_names()) for name in images]
    return ArraySource(np.stack(shrunk), np.array(labels), class_names())


def train(objective: Objective, network: UNetConfig | ClassifierConfig, num_steps: int) -> Params:
    """The averaged parameters after so many steps."""
    config = TrainConfig(num_steps=num_steps, **TRAIN)
    transform = make_transform(
        DataConfig(name='folder', image_size=SIZE), crop_randomly=config.random_crop, flip=config.flip
    )
    data = batches(source(), config.batch_size, seed=0, transform=transform)
    mesh = make_mesh(devices=jax.devices()[:1])
    step, (state, _) = train_program(objective, network, config, mesh)
    state = first_state(objective, network, config, state, jax.random.key(0))
    with Progress(type(network).__name__, num_steps, unit='steps') as progress:
        for number in range(1, num_steps + 1):
            state, metrics = step(state, put_batch(mesh, next(data)))
            if number % 50 == 0:
                progress.update(number, {'loss': means(metrics)['loss']})
    return jax.tree.map(np.asarray, state.ema[str(EMA_RATE)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='gets the two files of weights')
    folder = parser.parse_args().folder
    classifier = train(classifier_objective(CLASSIFIER, DIFFUSION), CLASSIFIER, num_steps=300)
    spec = Spec(CLASSIFIER, DIFFUSION, classes=class_names())
    save_weights(folder / '256x256_classifier.safetensors', spec, classifier)
    unet = train(diffusion_objective(UNET, DIFFUSION), UNET, num_steps=1000)
    spec = Spec(UNET, DIFFUSION, classes=class_names())
    save_weights(folder / '256x256_diffusion.safetensors', spec, unet)


if __name__ == '__main__':
    main()
