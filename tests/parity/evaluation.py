"""The metrics against those of the authors' evaluator, and against brute force in float64."""

from __future__ import annotations

import numpy as np

from diffusion_jax.evaluation.frechet import frechet_distance, moments
from diffusion_jax.evaluation.inception_score import inception_score
from diffusion_jax.evaluation.precision_recall import precision_recall, squared_radii
from tests.parity.case import Case, Check


def check_metrics(case: Case) -> None:
    for features in case.arrays:
        if features.endswith('/features_ref'):
            prefix = features.removesuffix('features_ref')
            golden = {key.removeprefix(prefix): a for key, a in case.arrays.items() if key.startswith(prefix)}
            check = {'fid': _check_frechet, 'pr': _check_precision_recall}[prefix.split('/')[0]]
            check(golden)
    _check_inception_score(case)


def _check_frechet(golden: dict[str, np.ndarray]) -> None:
    reference = moments(golden['features_ref'])
    distance = frechet_distance(moments(golden['features_sample']), reference)
    exact, authors = golden['fid_float64_eig'], golden['fid']
    np.testing.assert_allclose(distance, exact, rtol=1e-6)  # itself exact to 1e-8 for singular covariances
    assert abs(distance - authors) <= abs(exact - authors) + 1e-6 * exact  # whose means are float32
    if 'mu_ref' in golden:
        np.testing.assert_allclose(reference.mean, golden['mu_ref'], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(reference.covariance, golden['sigma_ref'], rtol=1e-6, atol=1e-9)


def _check_precision_recall(golden: dict[str, np.ndarray]) -> None:
    samples, reference = golden['features_sample'], golden['features_ref']
    precision, recall = precision_recall(samples, reference)
    assert precision == golden['precision_float64']
    assert recall == golden['recall_float64']
    # The authors' distances are float16: a sample at the border of a ball may fall on the other side.
    assert abs(precision - golden['precision_reference_tf']) < 1.5 / len(samples)
    assert abs(recall - golden['recall_reference_tf']) < 1.5 / len(reference)
    np.testing.assert_allclose(squared_radii(reference, 3), golden['radii_ref_float64'], rtol=1e-6)


def _check_inception_score(case: Case) -> None:
    logits = case.arrays['is/activations'].astype(np.float64) @ case.arrays['is/softmax_w']
    for key in case.arrays:
        if key.startswith('is/split') and key.endswith('/score_float64'):
            split_size = int(key.split('/')[1].removeprefix('split'))
            score = inception_score(logits, split_size)
            np.testing.assert_allclose(score, case.arrays[key], rtol=1e-9)
            np.testing.assert_allclose(score, case.arrays[key.removesuffix('_float64')], rtol=1e-5)


CHECKS = [Check(lambda case: 'is/activations' in case.meta.get('arrays', {}), check_metrics)]
