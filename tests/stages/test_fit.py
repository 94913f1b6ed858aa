"""Trainings: what they refuse before the first step, their data, and how they end if they diverge."""

import json
import threading
import time
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion_jax.commands import prepare
from diffusion_jax.data.sources import open_source
from diffusion_jax.errors import UserError
from diffusion_jax.stages import train, train_classifier
from diffusion_jax.stages.fit import (
    explain_divergence,
    fit,
    initialization_fits,
    training_data,
    training_fits,
)
from diffusion_jax.training.metrics import TooManySkipped
from diffusion_jax.training.objectives import Objective, draw_noise
from diffusion_jax.workdir import write_stamp
from tests.errors import refused
from tests.stages.runs import make_run


def test_a_batch_larger_than_memory_is_refused_before_it_is_made():
    with refused('config.train.batch_size', '640 GB'):
        train.check(make_run(train__batch_size=2 * 10**9, train__microbatches=1))


@pytest.mark.slow
def test_a_training_that_diverges_names_the_last_good_checkpoint(tmp_path):
    """From step 3 on no loss is a number: Adam moves every parameter by about the learning rate a step."""

    def losses(params, inputs, key):
        moved = params['conv_out']['bias'][0]
        loss = jnp.where(jnp.abs(moved) > 1.5 * 1e-3, jnp.nan, moved)
        return {'loss': jnp.broadcast_to(loss, inputs['t'].shape)}

    settings = {'max_skipped': 3, 'log_every': 1, 'checkpoint_every': 2, 'sample_every': 0, 'profile': '3,3'}
    settings |= {'evaluate_every': 0}
    run = make_run(tmp_path, ('train',), **{f'train__{name}': value for name, value in settings.items()})
    training = train.locate(run)._replace(objective=Objective(draw_noise, losses, num_timesteps=50))
    with pytest.raises(UserError) as error:
        fit(run, training, lambda writer: [])
    folder = tmp_path / 'diffusion'
    assert error.value.where == str(folder) and 'step 5' in error.value.problem
    assert f'{folder}/checkpoints/2' in error.value.problem
    assert (folder / 'checkpoints' / '2').is_dir()
    assert list((folder / 'profile').rglob('*.xplane.pb'))


def test_batches_are_made_and_placed_ahead_of_the_step():
    placed = []

    def place(batch):
        placed.append(batch)
        return threading.current_thread(), batch

    data = training_data(make_run(), 'diffusion', place)
    thread, batch = next(data)
    assert thread is not threading.main_thread()
    deadline = time.monotonic() + 10
    while len(placed) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    ahead, position = placed[1], data.get_state()
    np.testing.assert_array_equal(next(data)[1]['image'], ahead['image'])
    assert (batch['image'] != ahead['image']).any()
    data.set_state(position)  # counts what was asked for, not what was made
    np.testing.assert_array_equal(next(data)[1]['image'], ahead['image'])


@pytest.mark.parametrize(
    ('changes', 'number'), [({}, 1), ({'train__flip': True}, 2), ({'train__random_crop': True}, 8)]
)
def test_flips_and_crops_are_those_of_the_config(tmp_path, changes, number):
    """Batches of a single image."""
    pixels = np.arange(400, dtype=np.uint8).reshape(20, 20)
    (tmp_path / 'train' / 'a').mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / 'train' / 'a' / '0.png')
    data = {'data__name': 'folder', 'data__path': tmp_path, 'data__num_classes': 1, 'sample__scale': 0}
    run = make_run(train__evaluate_every=0, **data, **changes)
    data = training_data(run, 'diffusion', lambda batch: batch)
    images = np.concatenate([next(data)['image'] for _ in range(2)])
    found = len(np.unique(images, axis=0))
    assert found == number if number < 3 else found >= number


@pytest.mark.parametrize(('name', 'stage'), [('diffusion', 'train'), ('classifier', 'train_classifier')])
@pytest.mark.parametrize(('size', 'said'), [(16, None), (3000, '2 times'), (2000, '1.33 times')])
def test_a_batch_larger_than_the_data_is_reported(caplog, name, stage, size, said):
    caplog.set_level('INFO')
    training_data(make_run(**{f'{stage}__batch_size': size}), name, lambda batch: batch)
    (line,) = caplog.messages
    assert ('batch_size' in line) == (said is not None)
    assert said is None or (f'config.{stage}.batch_size' in line and said in line)


@pytest.mark.parametrize('step', [None, 0])
def test_divergence_is_explained(tmp_path, step):
    folder = tmp_path / 'diffusion'
    checkpoints = SimpleNamespace(latest_step=step, directory=folder / 'checkpoints')
    with pytest.raises(UserError) as error, explain_divergence(folder, checkpoints):
        raise TooManySkipped('step 5')
    assert error.value.where == str(folder) and 'step 5' in error.value.problem
    assert (f'{folder}/checkpoints/{step}' in error.value.problem) == (step is not None)
    start = f'--stage=train --config.pretrained.diffusion={folder}'
    assert (start in error.value.remedy) == (step is not None)


def test_too_little_memory_names_the_part_and_what_to_lower():
    with pytest.raises(UserError) as error, training_fits(make_run(), 'diffusion'):
        raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 118189471424 bytes.')
    assert 'diffusion' in error.value.where and '118,189,471,424 bytes' in error.value.problem
    settings = ('train.batch_size (16)', 'train.microbatches', 'mesh.fsdp', 'unet.remat=True')
    for name in (f'config.{setting}' for setting in settings):
        assert name in error.value.remedy


def test_a_state_that_does_not_fit_is_not_mended_by_the_batch():
    run = make_run()
    with (
        pytest.raises(UserError) as error,
        training_fits(run, 'classifier'),
        initialization_fits(run, 'classifier'),
    ):
        raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory.')
    assert 'initializing the classifier' in error.value.where and 'batch_size' not in error.value.remedy
    assert (
        f'config.classifier.model_channels ({run.experiment.classifier.model_channels})' in error.value.remedy
    )


@pytest.fixture
def images(tmp_path):
    """Settings of a folder of two classes."""
    for name in ('ant', 'bee'):
        (tmp_path / 'images' / 'train' / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / 'images' / 'train' / name / '0.png')
    settings = {'data__name': 'folder', 'data__path': tmp_path / 'images', 'data__num_classes': 2}
    return settings | {'train__evaluate_every': 0}


def complete(workdir, **changes):
    open_source.cache_clear()  # the images have changed
    run = make_run(workdir, **changes)
    return train.complete(run, train.locate(run))


@pytest.fixture
def begun(images, tmp_path):
    write_stamp(tmp_path / 'diffusion', train.locate(make_run(tmp_path, **images)).stamp)
    assert not complete(tmp_path, **images)
    return tmp_path / 'images' / 'train' / 'ant'


def test_a_run_of_a_named_folder_resumes_where_its_kind_is_recognised(begun, images, tmp_path):
    """As every run did before there was 'auto'; the stamp has the kind, so that the reverse works, too."""
    automatic = images | {'data__name': 'auto'}
    assert not complete(tmp_path, **automatic)
    assert train.locate(make_run(tmp_path, **automatic)).stamp['data']['name'] == 'folder'


def rename_class(folder):
    folder.rename(folder.parent / 'wasp')


def add_image(folder):
    (folder / 'new.png').write_bytes((folder / '0.png').read_bytes())


def rename_image(folder):
    (folder / '0.png').rename(folder / 'other.png')


@pytest.mark.parametrize(
    ('change', 'says'), [(rename_class, "'bee'"), (add_image, '3 '), (rename_image, 'renamed')]
)
def test_other_images_are_refused(begun, images, tmp_path, change, says):
    change(begun)
    with pytest.raises(UserError) as error:
        complete(tmp_path, **images)
    assert error.value.where == 'config.data' and says in str(error.value)
    assert f'--stage=train --config.pretrained.diffusion={tmp_path / "diffusion"}' in error.value.remedy


def test_images_may_be_moved_and_read_in_another_way(begun, images, tmp_path):
    (tmp_path / 'images').rename(tmp_path / 'moved')
    images |= {'data__path': f'{tmp_path / "moved"}/', 'data__num_workers': 3, 'train__microbatches': 2}
    assert not complete(tmp_path, **images)


def test_images_are_checked_once(images, tmp_path):
    run = make_run(tmp_path, **images)
    run.check_images('train')
    (tmp_path / 'images' / 'train' / 'ant' / '0.png').write_bytes(b'')
    run.check_images('train')
    with pytest.raises(UserError):
        make_run(tmp_path, **images).check_images('train')


def test_other_settings_are_refused(begun, images, tmp_path):
    with pytest.raises(UserError) as error:
        complete(tmp_path, train__batch_size=32, train__num_steps=9, **images)
    assert error.value.where == str(tmp_path / 'diffusion')
    assert 'train.batch_size: had 16, now 32' in error.value.problem
    assert 'num_steps' not in error.value.problem and '--config.pretrained' in error.value.remedy


@pytest.mark.parametrize(('had', 'now'), [(16, 32), (32, 16)])
def test_a_network_of_other_groups_is_refused(images, tmp_path, had, now):
    """Although its parameters have the same shapes, and a description omits the default."""
    stored = train.locate(make_run(tmp_path, unet__norm_groups=had, **images)).stamp
    write_stamp(tmp_path / 'diffusion', stored)
    with refused(str(tmp_path / 'diffusion'), f'network.norm_groups: had {had}, now {now}'):
        complete(tmp_path, unet__norm_groups=now, **images)


def test_a_run_of_a_version_that_did_not_record_its_images_resumes(begun, images, tmp_path):
    path = tmp_path / 'diffusion' / 'stamp.json'
    stamp = json.loads(path.read_text())
    del stamp['images']
    path.write_text(json.dumps(stamp))
    assert not complete(tmp_path, **images)


@pytest.mark.parametrize(('every', 'splits'), [(2, {'train', 'test'}), (0, {'train'})])
def test_a_classifier_reads_the_test_images_if_it_is_validated(every, splits):
    run = make_run(train_classifier__validate_every=every)
    train_classifier.check(run)
    assert run.checked == splits


def test_a_classifier_needs_two_classes():
    run = make_run(data__name='folder', data__path='x', data__labels='none', data__num_classes=1, **ONE_CLASS)
    with pytest.raises(UserError) as error:
        train_classifier.check(run)
    assert error.value.where == 'config.data.num_classes'
    assert '--stage=train,sample' in error.value.remedy


ONE_CLASS = {'sample__scale': 0}


def test_random_crops_of_prepared_crops_are_refused(tmp_path):
    for name in ('a', 'b'):
        path = tmp_path / 'images' / 'train' / name / '1.png'
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((12, 12), np.uint8)).save(path)
    for size in ('8', 'full'):
        options = [str(tmp_path / 'images'), f'--out={tmp_path / size}', f'--size={size}', '--channels=1']
        assert prepare.main(['diffusion-jax prepare', *options]) == 0
    data = {'data__name': 'auto', 'data__num_classes': 2, 'train_classifier__random_crop': True}
    data |= {'train_classifier__validate_every': 0}
    train_classifier.check(make_run(tmp_path, ('train_classifier',), **data, data__path=tmp_path / 'full'))
    with refused('config.train_classifier.random_crop', '8×8', '--size=full'):
        train_classifier.check(make_run(tmp_path, ('train_classifier',), **data, data__path=tmp_path / '8'))
