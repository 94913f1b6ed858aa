"""Two sets of images, by every metric that what is known of them allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax.data.image_sets import open_images
from diffusion_jax.data.image_sets.archive import names_in_archive
from diffusion_jax.data.image_sets.base import ArrayImages, ImageSet
from diffusion_jax.data.image_sets.samples import shard_folder
from diffusion_jax.data.image_sets.source import SourceImages
from diffusion_jax.data.sources.files import shown
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.extraction import extract
from diffusion_jax.evaluation.extractors import Extractor
from diffusion_jax.evaluation.feature_sets import (
    LEAST_IMAGES,
    REFERENCE_ROWS,
    FeatureSet,
    from_file,
    from_shards,
)
from diffusion_jax.evaluation.frechet import Gaussian, frechet_distance
from diffusion_jax.evaluation.inception_score import inception_score
from diffusion_jax.evaluation.kid import kid
from diffusion_jax.evaluation.precision_recall import coverage
from diffusion_jax.evaluation.uncertainty import frechet_error, inception_score_error, share_error
from diffusion_jax.images import Size
from diffusion_jax.workdir import STAMP_FILE


class Side(NamedTuple):
    """One of two sets that are compared: images, or what a file says of them, or both.

    stored: what needs no look at images; of the authors' reference files, the statistics.
    part: which images of the set these are; '' is all. A folder of features is named after it, too.
    """

    name: str
    images: ImageSet | None
    stored: FeatureSet = FeatureSet(0)
    part: str = ''


def open_side(path: str | Path, size: Size | None = None) -> Side:
    """An npz of images, statistics or features, an .npy of features, a folder of images or of samples.

    size: where it is a folder of image files, crops them to height and width.

    Raises:
        UserError: it is none of these, or cannot be used; see `open_images` and `from_file`.
    """
    path = Path(path)
    if path.is_dir():
        _check_folder(path)
        return Side(shown(path), _enough(open_images(path, size)))
    stored = from_file(path)
    has_images = path.suffix != '.npy' and 'arr_0' in names_in_archive(path)
    if not has_images and stored.gaussian is None:
        has = ', '.join(names_in_archive(path)) or 'nothing'
        raise UserError(
            f'{path}: has neither images (arr_0) nor statistics (mu, sigma) nor features; it has {has}'
        )
    return Side(shown(path), _enough(open_images(path)) if has_images else None, stored)


def _enough(images: ImageSet) -> ImageSet:
    """The images. UserError if they are too few for any metric, before others are looked at."""
    count = sum(part.stop - part.start for part in images.parts)
    if count < LEAST_IMAGES:
        raise UserError(f'{images.name}: has {count} images; needed are {LEAST_IMAGES} or more')
    return images


def _check_folder(path: Path) -> None:
    """UserError for folders of a run: their pictures, such as grids of samples, are no samples."""
    if shard_folder(path) is not None:
        return
    if shard_folder(path / 'samples') is not None:
        raise UserError(f'{path}: is the workdir of a run; give its samples, {path / "samples"}')
    if any((folder / STAMP_FILE).exists() for folder in (path, path / 'samples', path / 'diffusion')):
        raise UserError(f'{path}: is a folder of a run and has no samples; run the stage sample first')


def features_of(
    side: Side,
    extractor: Extractor | None,
    directory: Path,
    stop: Callable[[], bool],
    *,
    is_reference: bool = False,
    keep_spatial: bool = False,
) -> FeatureSet:
    """What metrics compare: statistics that a file gives, and features of the images that it holds.

    Args:
        extractor: None where both sides have statistics or features; images are not read then.
        directory: takes the features while they are computed; those that are there are not computed again.
        is_reference: then features of some images are enough, but of all that a file holds for it.
        keep_spatial: see `from_shards`.

    Raises:
        UserError, Interrupted: see `extract` and `from_shards`.
    """
    if side.images is None or extractor is None:
        return side.stored
    _enough(side.images)
    hosts = {'host': jax.process_index(), 'num_hosts': jax.process_count()}
    shards = extract(side.images, extractor, directory, stop, **hosts)
    max_rows = REFERENCE_ROWS if is_reference and not isinstance(side.images, ArrayImages) else None
    found = from_shards(shards, max_rows, keep_spatial=keep_spatial, name=side.name)
    if isinstance(side.images, SourceImages) and side.images.source.skipped:
        found = found._replace(skipped=f'{side.name}: {side.images.source.skipped}')
    if side.stored.gaussian is None:
        return found
    # Its statistics are of more images than those that a file of the authors holds.
    gaussians = {'gaussian': side.stored.gaussian, 'spatial': side.stored.spatial}
    return found._replace(num_images=side.stored.num_images, extractor=side.stored.extractor, **gaussians)


def check_comparable(samples: Side, reference: Side, extractor: Extractor | None) -> None:
    """UserError where the features of both sides cannot be of the same network, as far as one can tell."""
    made_by = {side.name: side.stored.extractor for side in (samples, reference) if side.stored.extractor}
    if extractor is not None:
        made_by['this evaluation'] = extractor.name
    if len(set(made_by.values())) > 1:
        (one, its), (other, others) = list(made_by.items())[:2]
        raise UserError(
            f'{one}: its statistics are of {its}, those of {other} of {others}; use the same weights and the '
            'same resize, or make the reference again'
        )
    defaults = {'gaussian': extractor.dimensions if extractor else None, 'spatial': None}
    for what, default in defaults.items():
        ours, theirs = (_dimensions(getattr(side.stored, what), default) for side in (samples, reference))
        if ours != theirs and None not in (ours, theirs):
            seen = [
                f' ({extractor.name})' if getattr(side.stored, what) is None else ''
                for side in (samples, reference)
            ]
            raise UserError(
                f'{samples.name}: has {ours} features an image{seen[0]}, {reference.name} has {theirs}'
                f'{seen[1]}; both must come from the same network: give images on both sides, or features'
            )


def _dimensions(stored: Gaussian | None, default: int | None) -> int | None:
    return default if stored is None else len(stored.mean)


def compare(
    samples: FeatureSet,
    reference: FeatureSet,
    logits: Callable[[np.ndarray], np.ndarray] | None = None,
    num_resamples: int = 0,
) -> dict[str, Any]:
    """Every metric that what is known of both allows, by name; with resamples also 'standard_errors'.

    Args:
        logits: features → logits of Inception's classes; None where the features are not Inception's.
        num_resamples: of the bootstrap, see `uncertainty`.
    """
    fid = 'frechet_distance' if logits is None and samples.spatial is None else 'fid'
    distances = {
        fid: (samples.gaussian, reference.gaussian, samples.features),
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
        found['kid'], errors['kid'] = kid(samples.features, reference.features)
    return found | ({'standard_errors': errors} if num_resamples else {})
