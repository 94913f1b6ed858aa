"""The stage `evaluate`: results, their reference, and what is refused before anything is sampled."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.image_sets.archive import open_samples
from diffusion_jax.data.sources.digits import digits_source
from diffusion_jax.errors import UserError
from diffusion_jax.stages.evaluate import check, open_reference
from tests.commands.test_evaluate import REFERENCE, compare_pixels, random_inception
from tests.errors import refused
from tests.hosts import untrained
from tests.program import run
from tests.stages.runs import make_run


@pytest.fixture(scope='module')
def settings(tmp_path_factory):
    """Of an experiment that draws 16 images and compares them with 16 others."""
    folder = tmp_path_factory.mktemp('evaluate')
    random_inception(folder / 'inception.safetensors')
    np.savez(folder / 'reference.npz', REFERENCE)
    return untrained(folder / 'diffusion.safetensors') | {
        'evaluate__inception': folder / 'inception.safetensors',
        'evaluate__reference': folder / 'reference.npz',
        'evaluate__batch_size': 16,
        'sample__num_samples': 16,
        'sample__batch_size': 16,
    }


@pytest.mark.slow
def test_samples_are_compared_by_inception(settings, tmp_path, capfd):
    assert run(tmp_path, 'sample,evaluate', **settings) == 0
    result = json.loads((tmp_path / 'evaluation_inception.json').read_text())
    assert result['fid'] > 0 and result['sfid'] > 0 and result['inception_score'] >= 1
    protocol = result['protocol']
    assert protocol['inception']['source'] == 'random.pth' and protocol['reference'].endswith('reference.npz')
    assert protocol['num_samples'] == 16 and protocol['steps'] == 5 and protocol['scale'] == 0
    printed = capfd.readouterr().err
    assert 'note: 16 samples' in printed and '100%  16/16' in printed
    assert run(tmp_path, 'sample,evaluate', **settings) == 0
    assert capfd.readouterr().err.count('complete already') == 2


@pytest.mark.parametrize(
    ('change', 'where'),
    [
        ({'evaluate__inception': 'none.safetensors'}, 'none.safetensors'),
        ({'evaluate__reference': 'none.npz'}, 'none.npz'),
        ({'evaluate__inception': ''}, 'config.data.image_size'),
        ({'evaluate__resize': 'bicubic'}, 'config.evaluate.resize'),
        ({'evaluate__bootstrap': 1}, 'config.evaluate.bootstrap'),
        ({'evaluate__reference': ''}, 'config.evaluate.reference'),
        ({'sample__num_samples': 3}, 'config.sample.num_samples'),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sampled(settings, change, where):
    with pytest.raises(UserError, match=re.escape(where)):
        check(make_run(stages=('sample', 'evaluate'), **settings | change))


CONDITIONAL = {'unet__class_conditional': True, 'sample__scale': 0}
TEST = digits_source('test')


@pytest.mark.parametrize(
    ('changes', 'classes'),
    [
        (CONDITIONAL | {'sample__classes': '(3, 7)'}, {3, 7}),
        (CONDITIONAL | {'sample__classes': '(3, 7)', 'sample__labels': 'random'}, {3, 7}),
        (CONDITIONAL | {'sample__num_samples': 4}, {0, 1, 2, 3}),  # balanced: of each class one, in turn
        (CONDITIONAL | {'sample__num_samples': 4, 'sample__labels': 'random'}, set(range(10))),
        ({'guided': True, 'sample__classes': '(5,)'}, {5}),
        ({'guided': False, 'sample__classes': '(5,)'}, set(range(10))),  # no classes without guidance
    ],
)
def test_a_split_is_restricted_to_the_sampled_classes(changes, classes):
    guided, run = changes.pop('guided', False), make_run(**changes)
    reference = open_reference(run if guided else run.unguided())
    np.testing.assert_array_equal(
        reference.images.read_all(), TEST.images[np.isin(TEST.labels, list(classes))]
    )
    restricted = len(classes) < 10
    assert not reference.caveats and bool(reference.classes) == restricted
    assert not restricted or f'{len(classes)} of 10 classes' in reference.classes


def test_labels_of_a_file_give_the_classes(tmp_path):
    np.save(tmp_path / 'labels.npy', np.array([4, 4, 9]))
    run = make_run(**CONDITIONAL, sample__labels=tmp_path / 'labels.npy')
    images = open_reference(run).images.read_all()
    np.testing.assert_array_equal(images, TEST.images[np.isin(TEST.labels, [4, 9])])


def test_a_folder_is_restricted_by_names_and_statistics_get_a_caveat(tmp_path):
    for name in ('7', '10', '3'):  # sorted as text: '10' is class 0 of the folder
        (tmp_path / 'folder' / name).mkdir(parents=True)
        for place in 'xyz':
            image = Image.fromarray(np.full((8, 8), int(name), np.uint8))
            image.save(tmp_path / 'folder' / name / f'{place}.png')
    some = CONDITIONAL | {'sample__classes': '(3, 7)'}
    restricted = open_reference(make_run(**some, evaluate__reference=tmp_path / 'folder'))
    assert set(restricted.images.read_all().ravel().tolist()) == {3, 7}
    np.savez(tmp_path / 'x.npz', mu=np.zeros(3), sigma=np.eye(3))
    (caveat,) = open_reference(make_run(**some, evaluate__reference=tmp_path / 'x.npz')).caveats
    assert '2 of 10 classes (3, 7)' in caveat


@pytest.mark.parametrize('name', ['x.npy', 'x.npz'])
def test_features_are_no_reference_for_images(tmp_path, name):
    np.save(tmp_path / 'x.npy', np.zeros((9, 64)))
    np.savez(tmp_path / 'x.npz', mu=np.zeros(64), sigma=np.eye(64))
    with refused(name, '64', 'config.evaluate.inception'):
        check(make_run(evaluate__reference=tmp_path / name))


@pytest.mark.slow
def test_the_result_is_of_the_sampled_classes(tmp_path):
    start = untrained(tmp_path / 'diffusion.safetensors', **{'unet.class_conditional': True})
    change = start | CONDITIONAL | {'sample__classes': '(3,)'}
    assert run(tmp_path / 'run', 'sample,evaluate', **change) == 0
    result = json.loads((tmp_path / 'run' / 'evaluation.json').read_text())
    assert result['protocol']['reference_images'] == np.sum(TEST.labels == 3)
    assert '1 of 10 classes' in result['protocol']['reference_classes']
    samples = open_samples(tmp_path / 'run' / 'samples').read_all()
    expected = compare_pixels(samples, TEST.images[TEST.labels == 3])
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    (tmp_path / 'run' / 'evaluation.json').write_text('{')  # damaged: it is made again
    assert run(tmp_path / 'run', 'evaluate', **change) == 0
    assert json.loads((tmp_path / 'run' / 'evaluation.json').read_text()) == result
