"""Which images a run was trained on, and what its labels mean, is kept with it and compared from then on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_jax import main
from diffusion_jax.commands import convert
from diffusion_jax.experiment import Pretrained
from diffusion_jax.stages.networks import find_network
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


def test_renamed_classes_are_refused(copy, capfd):
    (copy / 'images' / 'train' / 'ant').rename(copy / 'images' / 'train' / 'wasp')
    assert program(copy, 'run', 'train', train__num_steps=4) == 2
    error = capfd.readouterr().err
    assert "class 0 is 'bee', not 'ant'" in error and '--config.pretrained.diffusion=' in error


def test_added_images_are_refused(copy, capfd):
    shutil.copy(copy / 'images' / 'train' / 'ant' / '0.png', copy / 'images' / 'train' / 'ant' / 'new.png')
    assert program(copy, 'run', 'train', train__num_steps=4) == 2
    error = capfd.readouterr().err
    assert '11 training images' in error and 'the 10 of' in error


def test_an_image_that_is_replaced_by_another_is_noticed(copy, capfd):
    folder = copy / 'images' / 'train' / 'ant'
    (folder / '0.png').rename(folder / 'other.png')
    assert program(copy, 'run', 'train', train__num_steps=4) == 2
    assert 'renamed' in capfd.readouterr().err


def test_a_training_resumes_where_its_images_were_moved(copy):
    (copy / 'images').rename(copy / 'moved')
    assert program(copy, 'run', 'train', data__path=f'{copy / "moved"}/', train__num_steps=3) == 0
    assert (copy / 'run' / 'diffusion' / 'checkpoints' / '3').is_dir()


def test_microbatches_make_no_other_training(finished, capfd):
    assert program(finished, 'run', 'train', train__microbatches=2) == 0
    assert 'complete already' in capfd.readouterr().err


def test_another_batch_size_names_the_way_to_train_on(copy, capfd):
    assert program(copy, 'run', 'train', train__batch_size=32) == 2
    error = capfd.readouterr().err
    assert (
        'train.batch_size: had 16, now 32' in error
        and '--stage=train --config.pretrained.diffusion=' in error
    )


def test_a_run_of_a_version_that_kept_no_images_resumes_from_the_same_folder(copy, capfd):
    path = copy / 'run' / 'diffusion' / 'stamp.json'
    old = stamp(copy, 'diffusion')
    del old['images']
    old['data'] |= {'path': f'{copy / "images"}/', 'train_split': 'train'}
    path.write_text(json.dumps(old))
    shutil.copytree(copy / 'images', copy / 'others')
    assert program(copy, 'run', 'train', train__num_steps=3, data__path=copy / 'others') == 2
    assert 'data.path: had' in capfd.readouterr().err
    assert program(copy, 'run', 'train', train__num_steps=3) == 0
    assert stamp(copy, 'diffusion')['images']['classes'] == ['ant', 'bee']


def test_a_classifier_of_other_classes_does_not_guide(copy, capfd):
    other = make_images(copy / 'other', ('ant', 'wasp'))
    pretrained = copy / 'run' / 'diffusion'
    changes = {'data__path': other, 'pretrained__diffusion': pretrained}
    assert program(copy, 'new', 'train_classifier', **changes) == 2
    assert "class 1 is 'wasp', not 'bee'" in capfd.readouterr().err


def test_classes_are_sampled_by_name_without_the_images(copy, capfd):
    shutil.rmtree(copy / 'images')
    changes = {'sample__num_samples': 4, 'sample__name': 'bees'}
    assert program(copy, 'run', 'sample', sample__classes="('Bee',)", **changes) == 0
    with np.load(next((copy / 'run' / 'samples' / 'bees' / 'shards').iterdir())) as shard:
        assert shard['arr_1'].tolist() == [1, 1, 1, 1]
    assert program(copy, 'run', 'sample', sample__classes="('wasp',)") == 2
    error = capfd.readouterr().err
    assert all(part in error for part in ('config.sample.classes', "'wasp'", 'ant, bee'))


@pytest.mark.parametrize('names', [('ant', 'bee'), ('bee', 'cow')])
def test_tuning_keeps_what_belongs_to_the_same_classes_only(copy, names, capfd):
    """Two classes as before: a label embedding is started from only where its labels mean the same."""
    other = make_images(copy / 'other', names)
    changes = {
        'data__path': other,
        'pretrained__diffusion': copy / 'run' / 'diffusion',
        'train__num_steps': 1,
    }
    assert program(copy, 'new', 'train', **changes) == 0
    assert ('label_embedding/embedding' in capfd.readouterr().err) == (names != ('ant', 'bee'))


def test_a_network_that_was_tuned_by_an_older_version_is_found(copy):
    """Its stamp has the path of the start as it was typed."""
    start = copy / 'run' / 'diffusion'
    changes = {'pretrained__diffusion': start, 'train__num_steps': 1}
    assert program(copy, 'new', 'train', **changes) == 0
    path = copy / 'new' / 'diffusion' / 'stamp.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'pretrained': f'{start}/'}))
    assert (
        find_network(copy / 'new', 'diffusion', Pretrained(diffusion=str(start)))
        == copy / 'new' / 'diffusion'
    )


def test_a_number_that_names_a_class_is_its_name(copy, capfd):
    make_images(copy / 'numbered', ('1', '2'))
    changes = {'sample__classes': '1', 'sample__num_samples': 4, 'sample__scale': 0.0}
    changes |= {'data__path': copy / 'numbered', 'train__num_steps': 1}
    assert program(copy, 'new', 'train,sample', **changes) == 0
    assert 'classes: 1 (0)' in capfd.readouterr().err
    with np.load(next((copy / 'new' / 'samples' / 'shards').iterdir())) as shard:
        assert shard['arr_1'].tolist() == [0, 0, 0, 0]
