"""Which metrics two sets allow, and what a result says of itself."""

import json
import sys

import numpy as np
import pytest

from diffusion_jax.commands import cli
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.comparison import Side, check_comparable, compare
from diffusion_jax.evaluation.extractors import Extractor, pixel_extractor
from diffusion_jax.evaluation.feature_sets import LARGEST, FeatureSet, of_features
from diffusion_jax.evaluation.frechet import frechet_distance, moments
from diffusion_jax.evaluation.protocol import remarks, table
from diffusion_jax.shards import shard
from diffusion_jax.workdir import write_json, write_npz

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 40, 5))
INCEPTION = {'source': 'classify_image_graph_def.pb', 'resize': 'tensorflow'}
PAPERS = {'reference': 'VIRTUAL_imagenet256_labeled.npz', 'inception': INCEPTION}


def test_any_features():
    found = compare(of_features(A), of_features(B))
    assert set(found) == {'frechet_distance', 'precision', 'recall', 'kid'}


def test_statistics_alone():
    a, b = (FeatureSet(0, moments(f), spatial=moments(f[:, :3])) for f in (A, B))
    assert set(compare(a, b)) == {'fid', 'sfid'}


def test_of_inception_also_the_score_and_errors():
    a, b = of_features(A), of_features(B)
    found = compare(a, b, logits=lambda features: features, num_resamples=4)
    assert (
        set(found.pop('standard_errors'))
        == set(found)
        == {'fid', 'inception_score', 'precision', 'recall', 'kid'}
    )


@pytest.mark.filterwarnings('error')
def test_the_largest_features_give_finite_numbers():
    large, other = of_features(LARGEST * A / np.abs(A).max()), of_features(B)
    found = compare(large, other, num_resamples=2)
    json.dumps(found, allow_nan=False)
    distance = frechet_distance(large.gaussian, other.gaussian)
    assert found['frechet_distance'] == pytest.approx(distance, rel=1e-12) and found['precision'] == 0


def test_features_that_are_all_the_same_give_finite_numbers():
    constant = of_features(np.ones((20, 5)))
    for other in (constant, of_features(B)):
        found = compare(constant, other, num_resamples=2)
        json.dumps(found, allow_nan=False)
    assert 'all samples have the same features' in remarks({}, constant, of_features(B))


def side(name='x', features=A, extractor=''):
    return Side(name, None, of_features(features)._replace(extractor=extractor))


def test_features_of_different_networks_are_refused():
    check_comparable(side(), side('y'), None)
    with pytest.raises(UserError, match='x: has 5 features an image, y has 3'):
        check_comparable(side(), side('y', B[:, :3]), None)
    with pytest.raises(UserError, match='y: its statistics are of other, those of this evaluation of own'):
        check_comparable(Side('x', None), side('y', extractor='other'), Extractor('own', {}, 5, 1, None))
    spatial = side()._replace(stored=FeatureSet(0, moments(A), moments(A)))
    with pytest.raises(UserError, match='x: has 5 features an image, y has 3'):
        check_comparable(spatial, Side('y', None, FeatureSet(0, moments(B), moments(B[:, :3]))), None)


@pytest.mark.parametrize(
    ('change', 'samples', 'expected'),
    [
        ({}, {}, None),
        ({}, {'num_images': 10_000}, '10,000 samples; the paper has 50,000, and FID is larger so'),
        ({}, {'num_images': 60_000}, 'FID is smaller so'),
        ({'reference': 'mine.npz'}, {}, "none of the paper's"),
        ({'inception': INCEPTION | {'resize': 'pytorch_fid'}}, {}, 'resized as pytorch_fid does'),
        ({'inception': INCEPTION | {'source': 'mine.pth'}}, {}, 'mine.pth, which is no released file'),
        ({}, {'image_size': (64, 64)}, 'samples are of 64×64 pixels, the images of the reference of 256×256'),
        ({}, {'left_out': list('abcde')}, '5 images were left out: a; b; c; and 2 more'),
        ({}, {'features': None}, 'no precision, recall and KID'),
    ],
)
def test_what_makes_it_another_number_than_the_papers(change, samples, expected):
    known = of_features(A)._replace(num_images=50_000, image_size=(256, 256))
    found = remarks(PAPERS | change, known._replace(**samples), known)
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]


def test_pixels_are_no_fid():
    known = of_features(A)
    (remark,) = remarks({'features': 'pixels in [0, 1], grey as RGB'}, known, known)
    assert 'no FID' in remark and 'comparable with nothing' in remark


def test_features_of_a_file_may_be_of_another_inception():
    known = of_features(A)._replace(num_images=50_000, image_size=(256, 256))
    (remark,) = remarks(PAPERS | {'features_read_from': ['mine.npy']}, known, known)
    assert 'mine.npy' in remark


def test_singular_covariances_are_remarked_on_both_sides():
    few = of_features(A[:5])
    found = remarks({}, few, few)
    assert ['5 samples' in found[0], '5 images of the reference' in found[1]] == [True, True]


def test_errors_stand_beside_their_numbers():
    text = table({'fid': 3.25, 'kid': 0.01, 'standard_errors': {'fid': 0.125}})
    assert 'fid  3.25 ± 0.12' in text and 'kid  0.01' in text


def test_samples_of_ours_say_how_they_were_drawn(tmp_path, monkeypatch, capsys):
    """Of those that are there by now, while more are drawn."""
    folder = tmp_path / 'samples'
    images = RNG.integers(0, 256, (300, 4, 4, 3), np.uint8)
    for start in (0, 200):
        part = slice(start, start + 100)
        path = shard(folder / 'shards', start, start + 100).path
        write_npz(path, arr_0=images[part], arr_1=np.arange(100) % 10)
    sample = {'num_samples': 300, 'respacing': 'ddim25', 'sampler': 'ddim', 'scale': 2.0}
    process = {'num_timesteps': 100, 'schedule': 'cosine'}
    write_json(folder / 'stamp.json', {'sample': sample, 'process': process, 'diffusion': {'step': 7}})
    np.savez(tmp_path / 'reference.npz', images[100:140])
    seen = pixel_extractor()
    monkeypatch.setattr('diffusion_jax.commands.evaluate.make_extractor', lambda args, sides: seen)
    argv = [
        'evaluate',
        folder,
        tmp_path / 'reference.npz',
        f'--workdir={tmp_path}',
        f'--out={tmp_path / "o.json"}',
    ]
    monkeypatch.setattr(sys, 'argv', ['diffusion-jax', *map(str, argv)])
    assert cli.main() == 0
    protocol = json.loads((tmp_path / 'o.json').read_text())['protocol']
    assert protocol['num_samples'] == 200 and protocol['class_balance'] == 'balanced over 10 classes'
    assert protocol['steps'] == 25 and protocol['scale'] == 2.0 and protocol['checkpoint_step'] == 7
    assert 'scale: 2.0' in capsys.readouterr().out
