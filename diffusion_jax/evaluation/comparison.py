"""Two sets of images, by every metric that what is known of them allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from diffusion_jax.data.stored import open_images
from diffusion_jax.data.stored.archive import read_archive
from diffusion_jax.data.stored.image_set import ImageSet
from diffusion_jax.data.transforms import Size
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.extraction import extract
from diffusion_jax.evaluation.extractors import Extractor
from diffusion_jax.evaluation.feature_sets import FeatureSet, from_file, from_shards
from diffusion_jax.evaluation.frechet import frechet_distance
from diffusion_jax.evaluation.inception_score import inception_score
from diffusion_jax.evaluation.kid import kid_and_error
from diffusion_jax.evaluation.precision_recall import coverage
from diffusion_jax.evaluation.uncertainty import frechet_error, inception_score_error, share_error
from diffusion_jax.sharding import wait_for_all_hosts


class Side(NamedTuple):
    """One of two sets that are compared: images, or what a file says of them, or both.

    stored: what needs no look at images; of the authors' reference files, the statistics.
    """

    name: str
    images: ImageSet | None
    stored: FeatureSet = FeatureSet(0)


def open_side(path: str | Path, size: Size | None = None) -> Side:
    """An npz of images, statistics or features, an .npy of features, a folder of images or of samples.

    size: where it is a folder of image files, crops them to height and width.

    Raises:
        UserError: it is none of these, or cannot be used; see `open_images` and `from_file`.
    """
    path = Path(path)
    if path.is_dir():
        return Side(str(path), open_images(path, size))
    stored = from_file(path)
    has_images = path.suffix != '.npy' and 'arr_0' in read_archive(path, ['arr_0'])
    if not has_images and stored.gaussian is None:
        raise UserError(f'{path}: has neither images (arr_0) nor statistics (mu, sigma) nor features')
    return Side(str(path), open_images(path) if has_images else None, stored)


def features_of(
    side: Side,
    extractor: Extractor | None,
    directory: Path,
    stop: Callable[[], bool],
    *,
    max_rows: int | None = None,
    keep_spatial: bool = False,
) -> FeatureSet:
    """What metrics compare: statistics that a file gives, and features of the images that it holds.

    Args:
        directory: takes the features while they are computed; those that are there are not computed again.
        max_rows, keep_spatial: see `from_shards`.

    Raises:
        UserError, Interrupted: see `extract` and `from_shards`.
    """
    if side.images is None:
        return side.stored
    hosts = {'host': jax.process_index(), 'num_hosts': jax.process_count()}
    shards = extract(side.images, extractor, directory, stop, **hosts)
    wait_for_all_hosts(f'features of {side.name}')
    found = from_shards(shards, max_rows, keep_spatial=keep_spatial)
    if side.stored.gaussian is None:
        return found
    # Its statistics are of more images than those that a file of the authors holds.
    return side.stored._replace(features=found.features, left_out=found.left_out)


def check_dimensions(samples: Side, reference: Side, extractor: Extractor | None) -> None:
    """UserError where the features of both sides cannot be of the same network, as far as one can tell."""

    def dimensions(side: Side) -> int | None:
        if side.stored.gaussian is not None:
            return len(side.stored.gaussian.mean)
        return extractor.dimensions if extractor else None

    ours, theirs = dimensions(samples), dimensions(reference)
    if ours != theirs:
        raise UserError(
            f'{samples.name}: has {ours} features an image, {reference.name} has {theirs}; they must come '
            'from the same network'
        )


def compare(
    samples: FeatureSet,
    reference: FeatureSet,
    logits: Callable[[np.ndarray], np.ndarray] | None = None,
    num_resamples: int = 0,
) -> dict[str, float | dict[str, float]]:
    """Every metric that what is known of both allows, by name; with resamples also 'standard_errors'.

    Args:
        logits: features → logits of Inception's classes; None where the features are not Inception's.
        num_resamples: of the bootstrap, see `uncertainty`.
    """
    distances = {
        'fid' if logits else 'frechet_distance': (samples.gaussian, reference.gaussian, samples.features),
        'sfid': (samples.spatial, reference.spatial, samples.spatial_features),
    }
    found: dict[str, float] = {}
    errors: dict[str, float] = {}
    for name, (ours, theirs, features) in distances.items():
        if ours is not None and theirs is not None:
            found[name] = frechet_distance(ours, theirs)
            if num_resamples and features is not None:
                errors[name] = frechet_error(features, theirs, num_resamples=num_resamples)
    if logits is not None and samples.features is not None:
        predictions = logits(samples.features)
        found['inception_score'] = inception_score(predictions)
        if num_resamples:
            errors['inception_score'] = inception_score_error(predictions, num_resamples=num_resamples)
    if samples.features is not None and reference.features is not None:
        covered = coverage(samples.features, reference.features)
        shares = {'precision': covered.samples, 'recall': covered.reference}
        found |= {name: float(share.mean()) for name, share in shares.items()}
        errors |= {name: share_error(share) for name, share in shares.items()}
        found['kid'], errors['kid'] = kid_and_error(samples.features, reference.features)
    return found | ({'standard_errors': errors} if num_resamples else {})
