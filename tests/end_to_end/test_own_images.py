"""A user's own folder of images, by the configs that are made for it."""

import re

import numpy as np
import pytest
from PIL import Image

from diffusion_jax import main
from diffusion_jax.config import read_experiment
from diffusion_jax.data.image_sets.archive import open_samples
from tests.program import ROOT

TINY = {
    'data.image_size': '(8,8)',
    'train.num_steps': 3,
    'train.batch_size': 8,
    'train.warmup_steps': 1,
    'train.log_every': 1,
    'train.sample_every': 0,
    'train_classifier.num_steps': 2,
    'train_classifier.batch_size': 8,
    'train_classifier.log_every': 1,
    'sample.respacing': '3',
    'sample.num_samples': 8,
    'sample.batch_size': 8,
} | {
    f'{network}.{key}': value
    for network in ('unet', 'classifier')
    for key, value in {'channel_mult': '(1,)'}.items()
}
COLOURS = {'blue': (0, 0, 255), 'green': (0, 255, 0), 'red': (255, 0, 0)}


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """images/train/<class>, without a test split; sizes, modes and formats differ."""
    root = tmp_path_factory.mktemp('own') / 'images'
    for name, colour in COLOURS.items():
        (root / 'train' / name).mkdir(parents=True)
        for i in range(4):
            image = Image.new('RGBA' if i == 0 else 'RGB', (12 + i, 20), colour)
            image.save(root / 'train' / name / f'{i}.{"png" if i < 2 else "jpg"}')
    return root


def run(images, workdir, *flags):
    tiny = [f'--config.{key}={value}' for key, value in TINY.items()]
    config = f'--config={ROOT / "configs" / "photos.py"}'
    return main.main(['main', config, f'--workdir={workdir}', f'--config.data.path={images}', *tiny, *flags])


def without_labels(config):
    """The flags that the docstring of a config gives for images without labels."""
    text = (ROOT / 'configs' / f'{config}.py').read_text().split('"""')[1]
    (block,) = (block for block in re.findall(r'(?:^ +--.*\n)+', text, re.M) if 'labels=none' in block)
    return re.findall(r'--\S+', block)


@pytest.mark.slow  # test_images_of_a_run.py goes most of this way in the fast tier
def test_classes_of_colour_images_are_trained_guided_and_sampled(images, tmp_path):
    assert run(images, tmp_path / 'run') == 0
    for folder in ('samples', 'samples/unguided'):
        samples = open_samples(tmp_path / 'run' / folder)
        assert samples.take(np.arange(8)).shape == (8, 8, 8, 3)
        np.testing.assert_array_equal(samples.labels, np.arange(8) % 3)
        assert np.asarray(Image.open(tmp_path / 'run' / folder / 'grid.png')).ndim == 3


@pytest.mark.slow
def test_images_without_labels_need_nothing_but_the_flags_of_the_docstring(images, tmp_path):
    workdir = tmp_path / 'run'
    assert run(images, workdir, *without_labels('photos')) == 0
    assert not (workdir / 'classifier').exists() and not (workdir / 'samples' / 'unguided').exists()
    assert len(open_samples(workdir / 'samples').labels) == 8


@pytest.mark.parametrize('config', ['folder', 'photos'])
def test_flags_for_images_without_labels_make_an_unconditional_experiment(config):
    options = main.parse_flags(['main', f'--config={ROOT / "configs" / config}.py', *without_labels(config)])
    experiment = read_experiment(options.config)
    assert experiment.unet.num_classes is None and not experiment.sample.guided
    assert options.stages == ['train', 'sample']
