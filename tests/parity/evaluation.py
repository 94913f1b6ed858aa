"""The metrics against those of the authors' evaluator, and against brute force in float64."""

import functools

import numpy as np

from diffusion_jax.evaluation.frechet import frechet_distance, moments
from diffusion_jax.evaluation.inception_score import inception_score
from diffusion_jax.evaluation.precision_recall import coverage, squared_radius
from tests.parity.case import Case, Check
from tests.parity.compare import compare


def check_metrics(case: Case) -> None:
    for features in case.arrays:
        if features.endswith('/features_ref'):
            prefix = features.removesuffix('features_ref')
            golden = {key.removeprefix(prefix): a for key, a in case.arrays.items() if key.startswith(prefix)}
            check = {'fid': _check_frechet, 'pr': _check_precision_recall}[prefix.split('/')[0]]
            check(golden)
    _check_inception_score(case)


def _check_frechet(golden: dict[str, np.ndarray]) -> None:
    samples, reference = golden['features_sample'], golden['features_ref']
    distance = frechet_distance(moments(samples), moments(reference))
    # Roots of eigenvalues cost the record of a singular case half of its digits; ours must have all of them.
    exact = functools.partial(exact_frechet_distance, samples, reference)
    compare('FID, against float64', distance, golden['fid_float64_eig'], rtol=1e-9, exact=exact)
    compare('FID', distance, golden['fid'], rtol=1e-5, exact=exact)
    if 'mu_ref' in golden:
        mean, covariance = moments(reference)
        compare('mean of features', mean, golden['mu_ref'], rtol=1e-5, atol=1e-6)
        compare('covariance of features', covariance, golden['sigma_ref'], rtol=1e-6, atol=1e-9)


def exact_frechet_distance(samples: np.ndarray, reference: np.ndarray) -> float:
    """From the centred features, without covariances: Tr (Σ_a Σ_b)^½ is the nuclear norm of X_a X_bᵀ."""
    x, y = samples.astype(np.float64), reference.astype(np.float64)
    means = x.mean(axis=0), y.mean(axis=0)
    x, y = ((f - mean) / np.sqrt(len(f) - 1) for f, mean in zip((x, y), means, strict=True))
    cross = np.linalg.norm(x @ y.T, 'nuc')
    return np.sum((means[0] - means[1]) ** 2) + np.sum(x**2) + np.sum(y**2) - 2 * cross


def _check_precision_recall(golden: dict[str, np.ndarray]) -> None:
    samples, reference = golden['features_sample'], golden['features_ref']
    precision, recall = (covered.mean() for covered in coverage(samples, reference))
    compare('precision, against float64', precision, golden['precision_float64'])
    compare('recall, against float64', recall, golden['recall_float64'])
    # A sample at the border of a ball may fall on its other side in float16, and so by the order of a sum.
    authors = golden['precision_reference_tf'], golden['recall_reference_tf']
    theirs = release_precision_recall(samples, reference)
    for value, of_release, expected, count in zip(
        (precision, recall), theirs, authors, (len(samples), len(reference)), strict=True
    ):
        compare('precision and recall', value, expected, atol=1.5 / count)
        compare('precision and recall with distances in float16', of_release, expected, atol=1 / count)
    radii = [squared_radius(reference, index, 3) for index in range(len(reference))]
    compare('squared radii of precision and recall', radii, golden['radii_ref_float64'], rtol=1e-9)


def release_precision_recall(samples: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """As the authors' evaluator has them: |u|² − 2uv + |v|² in float16, sums in float32."""

    def distances(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        u, v = u.astype(np.float16), v.astype(np.float16)
        product = (np.float32(u) @ np.float32(v).T).astype(np.float16)
        squares = [np.sum(np.float32(x * x), axis=1).astype(np.float16) for x in (u, v)]
        return np.maximum(squares[0][:, None] - 2 * product + squares[1], 0)

    def radii(features: np.ndarray) -> np.ndarray:
        return np.sort(distances(features, features), axis=1)[:, 3]

    between = distances(samples, reference)
    precision = np.any(between <= radii(reference), axis=1).mean()
    recall = np.any(between <= radii(samples)[:, None], axis=0).mean()
    return float(precision), float(recall)


def _check_inception_score(case: Case) -> None:
    logits = case.arrays['is/activations'].astype(np.float64) @ case.arrays['is/softmax_w']
    for key in case.arrays:
        if key.startswith('is/split') and key.endswith('/score_float64'):
            split_size = int(key.split('/')[1].removeprefix('split'))
            score = inception_score(logits, split_size)
            compare('Inception score, against float64', score, case.arrays[key], rtol=1e-9)
            compare('Inception score', score, case.arrays[key.removesuffix('_float64')], rtol=1e-5)


CHECKS = [Check('metrics', lambda case: 'is/activations' in case.meta.get('arrays', {}), check_metrics)]
