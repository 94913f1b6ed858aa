"""Which images a run was trained on, and what its labels mean, is kept with it and compared from then on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_jax import main
from diffusion_jax.commands import convert
from diffusion_jax.stored_networks import stored_classes
from diffusion_jax.weights.files import load_weights

CONFIG = """
from diffusion_jax.config import with_defaults

def get_config():
    sizes = dict(model_channels=32, channel_mult=(1,), num_res_blocks=1)
    trunk = sizes | dict(attention_resolutions=(), num_head_channels=32)
    return with_defaults(
        stages=('train', 'train_classifier', 'sample'),
        data=dict(name='folder', path='images', image_size=(8, 8), image_channels=3),
        diffusion=dict(schedule='cosine', num_timesteps=20, loss='rescaled_mse'),
        unet=trunk | {'class_conditional': True},
        classifier=trunk | {'pool': 'adaptive'},
        train=dict(num_steps=2, batch_size=16, ema_rates=(0.9,)),
        train_classifier=dict(num_steps=2, batch_size=16, ema_rates=()),
        sample=dict(sampler='ddim', respacing='2', num_samples=8, batch_size=8, ema_rate=0.9),
    )
"""


def make_images(folder, names=('ant', 'bee'), count=5):
    rng = np.random.default_rng(0)
    for name in names:
        (folder / 'train' / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (9, 12, 3), np.uint8)
            Image.fromarray(pixels).save(folder / 'train' / name / f'{i}.png')
    return folder


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A folder with a config, images, and a run in `run` that nothing changes."""
    folder = tmp_path_factory.mktemp('images_of_a_run')
    (folder / 'config.py').write_text(CONFIG)
    make_images(folder / 'images')
    assert program(folder, 'run') == 0
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / 'copy'))


def program(folder, workdir, stage='', **changes):
    settings = {'data.path': folder / 'images'} | {k.replace('__', '.'): v for k, v in changes.items()}
    flags = [f'--config.{key}={value}' for key, value in settings.items()]
    stages = [f'--stage={stage}'] if stage else []
    return main.main(
        ['main', f'--config={folder / "config.py"}', f'--workdir={folder / workdir}', *stages, *flags]
    )


def stamp(folder, name):
    return json.loads((folder / 'run' / name / 'stamp.json').read_text())


def test_the_number_of_classes_and_their_names_come_from_the_images(finished):
    for name in ('diffusion', 'classifier'):
        images, network = (stamp(finished, name)[section] for section in ('images', 'network'))
        assert images['classes'] == ['ant', 'bee'] and images['count'] == 10 and network['num_classes'] == 2
    assert stamp(finished, 'samples')['classes'] == ['ant', 'bee']


def test_a_file_of_weights_has_the_names(finished, tmp_path):
    out = tmp_path / 'weights.safetensors'
    assert convert.main(['convert', str(finished / 'run' / 'diffusion'), '--out', str(out)]) == 0
    assert load_weights(out)[0].classes == stored_classes(out) == ('ant', 'bee')


def test_a_training_resumes_where_its_images_were_moved(copy):
    (copy / 'images').rename(copy / 'moved')
    assert program(copy, 'run', 'train', data__path=f'{copy / "moved"}/', train__num_steps=3) == 0
    assert (copy / 'run' / 'diffusion' / 'checkpoints' / '3').is_dir()


def test_classes_are_sampled_by_name_without_the_images(copy, capfd):
    shutil.rmtree(copy / 'images')
    changes = {'sample__num_samples': 4, 'sample__name': 'bees'}
    assert program(copy, 'run', 'sample', sample__classes="('Bee',)", **changes) == 0
    with np.load(next((copy / 'run' / 'samples' / 'bees' / 'shards').iterdir())) as shard:
        assert shard['arr_1'].tolist() == [1, 1, 1, 1]
    assert program(copy, 'run', 'sample', sample__classes="('wasp',)") == 2
    said = capfd.readouterr().err
    assert 'config.sample.classes' in said and 'ant, bee' in said
