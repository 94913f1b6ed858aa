"""The stage `evaluate` with Inception, and what is said before anything is drawn."""

import json

import numpy as np
import pytest

from tests.commands.test_evaluate import REFERENCE, random_inception
from tests.hosts import untrained
from tests.program import run


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
    assert 'real_frechet_distance' not in result
    protocol = result['protocol']
    assert protocol['inception']['source'] == 'random.pth' and protocol['reference'].endswith('reference.npz')
    assert protocol['num_samples'] == 16 and protocol['steps'] == 5 and protocol['scale'] == 0
    printed = capfd.readouterr().err
    assert 'note: 16 samples; the paper has 50,000' in printed and '100%  16/16' in printed
    assert run(tmp_path, 'sample,evaluate', **settings) == 0
    assert capfd.readouterr().err.count('complete already') == 2


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'evaluate__inception': 'none.safetensors'}, 'none.safetensors: no such file'),
        ({'evaluate__reference': 'none.npz'}, 'none.npz: no such file'),
        ({'evaluate__inception': ''}, 'config.data.image_size: has images of 8×8×1, '),
        ({'evaluate__resize': 'bicubic'}, 'config.evaluate.resize is '),
        ({'evaluate__bootstrap': 1}, 'config.evaluate.bootstrap is 1'),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_drawn(settings, tmp_path, capfd, change, message):
    assert run(tmp_path, 'sample,evaluate', **settings | change) == 2
    assert f'error: {message}' in capfd.readouterr().err
    assert not (tmp_path / 'samples').exists()
