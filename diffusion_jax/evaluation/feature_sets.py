"""What is known of a set of images when it is compared: features, and Gaussians fitted to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_jax.data.stored.archive import read_archive, read_array
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.extraction import LEFT_OUT, PLACES, SIZE
from diffusion_jax.evaluation.extractors import FEATURES, SPATIAL
from diffusion_jax.evaluation.frechet import BLOCK, Gaussian, Moments, gaussian, moments, update
from diffusion_jax.shards import Shard, read
from diffusion_jax.workdir import write_npz

# Of a reference so many images, drawn at random, are taken for precision, recall and KID; means and
# covariances are of all. The authors' reference files hold as many.
REFERENCE_ROWS = 10_000
LEAST_IMAGES = 4  # precision and recall need three neighbours of each

# What a file may hold, and of how many dimensions it is; and what ours say of themselves.
DIMENSIONS = {'mu': 1, 'sigma': 2, 'mu_s': 1, 'sigma_s': 2, FEATURES: 2}
MADE_BY = ('num_images', 'extractor')


class FeatureSet(NamedTuple):
    """Attributes:
    num_images: that the Gaussians are of; 0 where a file does not say.
    gaussian: of the features; None where nothing says it.
    spatial: the same of Inception's spatial features.
    features: float32 [N, D], of all images or of some.
    rows: [N], which images of the set these are, in its order.
    spatial_features: the same of Inception's spatial features, where they were asked for.
    image_size: height and width; None where there are no images.
    extractor: the name of what made the statistics in a file; '' where it does not say.
    left_out: '<file>: <reason>' for each image that could not be used.
    """

    num_images: int
    gaussian: Gaussian | None = None
    spatial: Gaussian | None = None
    features: np.ndarray | None = None
    spatial_features: np.ndarray | None = None
    rows: np.ndarray | None = None
    image_size: tuple[int, int] | None = None
    extractor: str = ''
    left_out: Sequence[str] = ()


def from_shards(
    found: Sequence[Shard], max_rows: int | None = None, *, keep_spatial: bool = False
) -> FeatureSet:
    """The features of shards that `extract` wrote.

    Args:
        max_rows: keeps the features of so many images at most, chosen at random.
        keep_spatial: keeps the spatial features, too, which else are only counted into their Gaussian.

    Raises:
        UserError: no image, or a single one, could be used.
    """
    seen = {FEATURES: Moments(), SPATIAL: Moments()}
    features: dict[str, list[np.ndarray]] = {FEATURES: [], SPATIAL: []} if keep_spatial else {FEATURES: []}
    rows, left_out, size, first = [], [], None, 0
    kept = kept_rows(sum(shard.stop - shard.start for shard in found), max_rows)
    for group in _groups(found):
        parts = [read(shard) for shard in group]
        for name in seen:
            block = [part[name] for part in parts if name in part]
            seen[name] = update(seen[name], np.concatenate(block)) if block else seen[name]
        for shard, part in zip(group, parts, strict=True):
            left_out += part[LEFT_OUT].tolist()
            chosen = kept[first + part[PLACES]]
            rows.append(first + part[PLACES][chosen])
            first += shard.stop - shard.start
            for name in features.keys() & part.keys():
                features[name].append(part[name][chosen])
                size = tuple(part[SIZE].tolist())
    if seen[FEATURES].count < LEAST_IMAGES:
        reason = f' ({left_out[0]})' if left_out else ''
        raise UserError(
            f'{found[0].path.parent}: of fewer than {LEAST_IMAGES} images that can be used{reason}'
        )
    return FeatureSet(
        num_images=seen[FEATURES].count,
        gaussian=gaussian(seen[FEATURES]),
        spatial=gaussian(seen[SPATIAL]) if seen[SPATIAL].count else None,
        features=np.concatenate(features[FEATURES]),
        spatial_features=np.concatenate(features[SPATIAL]) if features.get(SPATIAL) else None,
        rows=np.concatenate(rows),
        image_size=size,
        left_out=left_out,
    )


def _groups(found: Sequence[Shard]) -> Iterator[list[Shard]]:
    """Shards together, about so many images that adding them up costs more than merging the sums."""
    group: list[Shard] = []
    for shard in found:
        group.append(shard)
        if shard.stop - group[0].start >= BLOCK:
            yield group
            group = []
    if group:
        yield group


def from_file(path: Path) -> FeatureSet:
    """The statistics in an npz of the authors (mu, sigma, mu_s, sigma_s), or features that any network made
    of images: an .npy, or an npz with `features`, [N, D]. What a file does not have is None.

    Raises:
        UserError: the file cannot be read, or what it has does not fit together.
    """
    if path.suffix == '.npy':
        arrays = {FEATURES: read_array(path)}
    else:
        arrays = read_archive(path, (*DIMENSIONS, *MADE_BY))
    for name, ndim in DIMENSIONS.items():
        if name in arrays:
            _check_numbers(path, name, arrays[name], ndim)
    features = arrays.get(FEATURES)
    if features is not None:
        if len(features) < LEAST_IMAGES:
            raise UserError(
                f'{path}: has {len(features)} rows of features; needed are {LEAST_IMAGES} or more'
            )
        return of_features(features)
    return FeatureSet(
        num_images=int(arrays.get('num_images', 0)),
        gaussian=_gaussian(path, arrays, 'mu', 'sigma'),
        spatial=_gaussian(path, arrays, 'mu_s', 'sigma_s'),
        extractor=str(arrays.get('extractor', '')),
    )


def _check_numbers(path: Path, name: str, array: np.ndarray, ndim: int) -> None:
    if array.dtype.kind != 'f' or array.ndim != ndim:
        shape = {1: '[D]', 2: '[N, D]' if name == FEATURES else '[D, D]'}[ndim]
        hint = '; images go into an npz, as arr_0' if array.dtype == np.uint8 else ''
        raise UserError(
            f'{path}: {name} is {array.dtype} {list(array.shape)}; it must be float {shape}{hint}'
        )
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        raise UserError(f'{path}: {name} is not finite in row {wrong[0][0]}')


def of_features(features: np.ndarray) -> FeatureSet:
    """features: [N, D], of any floating-point type."""
    return FeatureSet(len(features), moments(features), features=np.asarray(features, np.float32))


def _gaussian(path: Path, arrays: dict[str, np.ndarray], mean: str, covariance: str) -> Gaussian | None:
    if mean not in arrays and covariance not in arrays:
        return None
    shapes = [list(arrays[name].shape) if name in arrays else None for name in (mean, covariance)]
    if None in shapes or len(shapes[0]) != 1 or shapes[1] != 2 * shapes[0]:
        raise UserError(f'{path}: {mean} and {covariance} are {shapes}; they must be [D] and [D, D]')
    return Gaussian(*(np.asarray(arrays[name], np.float64) for name in (mean, covariance)))


def save_statistics(path: str | Path, known: FeatureSet, images: np.ndarray, extractor: str) -> None:
    """Writes an npz that the authors' evaluator takes as its reference; what they do not know it passes over.

    Args:
        images: uint8 [N, H, W, 3], of which precision and recall take features.
        extractor: the name of what made the features.
    """
    arrays = {'mu': known.gaussian.mean, 'sigma': known.gaussian.covariance}
    if known.spatial is not None:
        arrays |= {'mu_s': known.spatial.mean, 'sigma_s': known.spatial.covariance}
    made_by = {'num_images': np.array(known.num_images), 'extractor': np.array(extractor)}
    write_npz(path, arr_0=images, **arrays, **made_by)


def kept_rows(total: int, max_rows: int | None) -> np.ndarray:
    """bool [total]: which images stand for all; the same ones whenever they are asked for."""
    kept = np.ones(total, bool)
    if max_rows is not None and total > max_rows:
        kept[np.random.default_rng(0).permutation(total)[max_rows:]] = False
    return kept
