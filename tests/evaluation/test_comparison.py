"""The metrics that two sets permit, and the caveats of a result."""

import json

import numpy as np
import pytest

from diffusion_jax.evaluation.comparison import compare
from diffusion_jax.evaluation.feature_stats import LARGEST, FeatureStats, of_features
from diffusion_jax.evaluation.frechet import frechet_distance, moments
from diffusion_jax.evaluation.protocol import caveats, report

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 40, 5))
INCEPTION = {'source': 'classify_image_graph_def.pb', 'resize': 'tensorflow'}
PAPERS = {
    'reference': 'VIRTUAL_imagenet256_labeled.npz',
    'features': 'Inception v3 (2015-12-05)',
    'inception': INCEPTION,
}
OTHER = {'features': 'read from the files'}


def test_any_features():
    assert set(compare(of_features(A), of_features(B))) == {'frechet_distance', 'precision', 'recall', 'kid'}


def test_statistics_alone():
    a, b = (FeatureStats(0, moments(f), spatial=moments(f[:, :3])) for f in (A, B))
    assert set(compare(a, b)) == {'fid', 'sfid'}


def test_features_of_inception_have_a_score_and_all_have_errors():
    a, b = (of_features(f)._replace(spatial=moments(f[:, :3]), spatial_features=f[:, :3]) for f in (A, B))
    metrics = compare(a, b, logits=lambda features: features, num_resamples=4)
    errors = metrics.pop('standard_errors')
    assert set(metrics) == {'fid', 'sfid', 'inception_score', 'precision', 'recall', 'kid'}
    assert set(errors) == set(metrics) and min(errors.values()) > 0


@pytest.mark.filterwarnings('error')
def test_the_largest_features_give_finite_numbers():
    large, other = of_features(LARGEST * A / np.abs(A).max()), of_features(B)
    metrics = compare(large, other, num_resamples=2)
    json.dumps(metrics, allow_nan=False)
    distance = frechet_distance(large.moments, other.moments)
    assert metrics['frechet_distance'] == pytest.approx(distance, rel=1e-12) and metrics['precision'] == 0


@pytest.mark.filterwarnings('error')
def test_features_that_are_all_the_same_give_finite_numbers():
    constant = of_features(np.ones((20, 5)))
    for other in (constant, of_features(B)):
        metrics = compare(constant, other, num_resamples=2)
        json.dumps(metrics, allow_nan=False)
        assert 'kid' in metrics
    assert 'all samples have the same features' in caveats(OTHER, constant, of_features(B))


@pytest.mark.parametrize(
    ('change', 'samples', 'expected'),
    [
        ({}, {}, ()),
        ({}, {'num_images': 10_000}, ('10,000', 'upwards')),
        ({}, {'num_images': 60_000}, ('60,000', 'downwards')),
        ({'reference': 'mine.npz'}, {}, ('VIRTUAL_',)),
        ({'inception': INCEPTION | {'resize': 'pytorch_fid'}}, {}, ('pytorch_fid',)),
        ({'inception': INCEPTION | {'source': 'mine.pth'}}, {}, ('mine.pth',)),
        ({'features_read_from': ['mine.npy']}, {}, ('mine.npy',)),
        ({}, {'image_size': (64, 64)}, ('64×64', '256×256')),
        ({}, {'unreadable': list('abcde')}, ('5 samples', 'a; b; c', '2 more')),
        ({}, {'skipped': '3 hidden files'}, ('3 hidden files',)),
        ({}, {'features': None}, ('precision, recall and KID',)),
    ],
)
def test_deviations_from_the_paper(change, samples, expected):
    stats = of_features(A)._replace(num_images=50_000, image_size=(256, 256))
    found = [*caveats(PAPERS | change, stats._replace(**samples), stats)]
    assert len(found) == bool(expected)
    assert all(text in found[0] for text in expected)


def test_pixels_are_no_fid():
    stats = of_features(A)
    (caveat,) = caveats({'features': 'pixels in [0, 1], grey as RGB'}, stats, stats)
    assert 'no FID' in caveat


def test_singular_covariances_of_both_sets():
    few = of_features(A[:5])
    samples, reference = caveats(OTHER, few, few)
    assert '5 samples' in samples and '5 images of the reference' in reference


def test_errors_are_printed_next_to_their_numbers():
    result = {'fid': 3.25, 'kid': 0.01, 'standard_errors': {'fid': 0.125}}
    text = report(result | {'protocol': {'samples': 'x', 'left_out': ['y']}})
    assert text.splitlines() == ['  fid  3.25 ± 0.12', '  kid  0.01', '  samples: x']
