"""Compares two image sets by every metric that the available data permit."""

from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion_jax.evaluation.eval_set import EvalSet, with_features
from diffusion_jax.evaluation.extractors import Extractor
from diffusion_jax.evaluation.feature_stats import REFERENCE_ROWS, FeatureStats
from diffusion_jax.evaluation.frechet import frechet_distance, frechet_error
from diffusion_jax.evaluation.inception_score import inception_score, inception_score_error
from diffusion_jax.evaluation.kid import kid
from diffusion_jax.evaluation.precision_recall import coverage, share_error
from diffusion_jax.evaluation.protocol import caveats, protocol


def evaluate(
    samples: EvalSet,
    reference: EvalSet,
    extractor: Extractor | None,
    stop: Callable[[], bool],
    num_resamples: int = 0,
) -> dict[str, Any]:
    """The result of an evaluation: metrics by name, 'num_samples', 'remarks' and the 'protocol'.

    Args:
        extractor: see `make_extractor`.
        num_resamples: of the bootstrap; 0 computes no 'standard_errors'.

    Raises:
        UserError, Interrupted: see `with_features`.
    """
    samples = with_features(samples, extractor, stop)
    reference = with_features(reference, extractor, stop, REFERENCE_ROWS)
    metrics = compare(samples.stats, reference.stats, extractor and extractor.logits, num_resamples)
    conditions = protocol(samples, reference, extractor)
    remarks = [*reference.caveats, *caveats(conditions, samples.stats, reference.stats)]
    return {'num_samples': samples.stats.num_images, **metrics, 'remarks': remarks, 'protocol': conditions}


def compare(
    samples: FeatureStats,
    reference: FeatureStats,
    logits: Callable[[np.ndarray], np.ndarray] | None = None,
    num_resamples: int = 0,
) -> dict[str, Any]:
    """Metrics by name; with resamples also their 'standard_errors'.

    logits: features → logits of Inception's classes; None for other features.
    """
    fid = 'frechet_distance' if logits is None and samples.spatial is None else 'fid'
    distances = {
        fid: (samples.moments, reference.moments, samples.features),
        'sfid': (samples.spatial, reference.spatial, samples.spatial_features),
    }
    metrics: dict[str, float] = {}
    errors: dict[str, float] = {}
    for name, (ours, theirs, features) in distances.items():
        if ours is not None and theirs is not None:
            metrics[name] = frechet_distance(ours, theirs)
            if num_resamples and features is not None:
                errors[name] = frechet_error(features, theirs, num_resamples)
    if logits is not None and samples.features is not None:
        predictions = logits(samples.features)
        metrics['inception_score'] = inception_score(predictions)
        if num_resamples:
            errors['inception_score'] = inception_score_error(predictions, num_resamples)
    if samples.features is not None and reference.features is not None:
        covered = coverage(samples.features, reference.features)
        for name, share in (('precision', covered.samples), ('recall', covered.reference)):
            metrics[name], errors[name] = float(share.mean()), share_error(share)
        metrics['kid'], errors['kid'] = kid(samples.features, reference.features)
    return metrics | ({'standard_errors': errors} if num_resamples else {})
