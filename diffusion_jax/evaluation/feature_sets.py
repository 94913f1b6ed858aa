"""What is known of a set of images when it is compared: features, and Gaussians fitted to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_jax.data.image_sets.archive import read_archive, read_array
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
LARGEST = 1e25  # the sixth powers of KID, and their squares in its error, stay finite in float64

# What a file may hold, and of how many dimensions it is; and what ours say of themselves.
DIMENSIONS = {'mu': 1, 'sigma': 2, 'mu_s': 1, 'sigma_s': 2, FEATURES: 2}
MADE_BY = ('num_images', 'extractor')


class FeatureSet(NamedTuple):
    """Attributes:
    num_images: that the Gaussians are of; 0 where a file does not say.
    gaussian: of the features; None where nothing says it.
    spatial: the same of Inception's spatial features.
    features: [N, D] of any float type, of all images or of some.
    rows: [N], which images of the set these are, in its order.
    spatial_features: the same of Inception's spatial features, where they were asked for.
    image_size: height and width; None where there are no images.
    extractor: the name of what made the statistics in a file; '' where it does not say.
    left_out: '<file>: <reason>' for each image that could not be used.
    skipped: which other files of a folder were skipped, by kind; '' where there were none.
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
    skipped: str = ''


def from_shards(
    found: Sequence[Shard], max_rows: int | None = None, *, keep_spatial: bool = False, name: str = ''
) -> FeatureSet:
    """The features of shards that `extract` wrote.

    Args:
        max_rows: keeps the features of so many images at most, chosen at random.
        keep_spatial: keeps the spatial features, too, which else are only counted into their Gaussian.
        name: of the set, for messages.

    Raises:
        UserError: fewer than LEAST_IMAGES images could be used.
    """
    seen = {FEATURES: Moments(), SPATIAL: Moments()}
    features: dict[str, list[np.ndarray]] = {FEATURES: [], SPATIAL: []} if keep_spatial else {FEATURES: []}
    rows, left_out, size, first = [], [], None, 0
    kept = kept_rows(sum(shard.stop - shard.start for shard in found), max_rows)
    for group in _groups(found):
        parts = [read(shard) for shard in group]
        for kind in seen:
            block = [part[kind] for part in parts if kind in part]
            seen[kind] = update(seen[kind], np.concatenate(block)) if block else seen[kind]
        for shard, part in zip(group, parts, strict=True):
            left_out += part[LEFT_OUT].tolist()
            chosen = kept[first + part[PLACES]]
            rows.append(first + part[PLACES][chosen])
            first += shard.stop - shard.start
            for kind in features.keys() & part.keys():
                features[kind].append(part[kind][chosen])
                size = tuple(part[SIZE].tolist())
    if seen[FEATURES].count < LEAST_IMAGES:
        reason = f' ({left_out[0]})' if left_out else ''
        raise UserError(
            f'{name or found[0].path.parent}: has {seen[FEATURES].count} images that can be used{reason}; '
            f'needed are {LEAST_IMAGES} or more'
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
    """Reads statistics in an npz of the authors (mu, sigma, mu_s, sigma_s), or features that any network made
    of images: an .npy, or an npz with `features`, [N, D]. What a file does not have is None.

    Raises:
        UserError: the file cannot be read, or its arrays cannot be what their names say.
    """
    if path.suffix == '.npy':
        arrays = {FEATURES: read_array(path)}
    else:
        arrays = read_archive(path, (*DIMENSIONS, *MADE_BY))
    for name, ndim in DIMENSIONS.items():
        if name in arrays:
            _check_numbers(path, name, arrays[name], ndim)
    gaussian, spatial = _gaussian(path, arrays, 'mu', 'sigma'), _gaussian(path, arrays, 'mu_s', 'sigma_s')
    made_by = {'num_images': _num_images(path, arrays), 'extractor': str(arrays.get('extractor', ''))}
    features = arrays.get(FEATURES)
    if features is None:
        return FeatureSet(gaussian=gaussian, spatial=spatial, **made_by)
    if len(features) < LEAST_IMAGES:
        raise UserError(f'{path}: has {len(features)} rows of features; needed are {LEAST_IMAGES} or more')
    if gaussian is None:
        return of_features(features)
    if features.shape[1] != len(gaussian.mean):
        raise UserError(f'{path}: mu has {len(gaussian.mean)} features, features {features.shape[1]}')
    # Its statistics may be of more images than its features.
    return FeatureSet(gaussian=gaussian, spatial=spatial, features=features, **made_by)


def _check_numbers(path: Path, name: str, array: np.ndarray, ndim: int) -> None:
    if array.dtype.kind != 'f' or array.ndim != ndim or not array.size:
        shape = {1: '[D]', 2: '[N, D]' if name == FEATURES else '[D, D]'}[ndim]
        hint = '; images go into an npz, as arr_0' if array.dtype == np.uint8 else ''
        raise UserError(
            f'{path}: {name} is {array.dtype} {list(array.shape)}; it must be float {shape}{hint}'
        )
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        raise UserError(f'{path}: {name} is not finite in row {wrong[0][0]}')
    if max(float(array.max()), -float(array.min())) > LARGEST:
        raise UserError(f'{path}: {name} has numbers beyond ±{LARGEST:g}; scale the features of both sides')


def _gaussian(path: Path, arrays: dict[str, np.ndarray], mean: str, covariance: str) -> Gaussian | None:
    if mean not in arrays and covariance not in arrays:
        return None
    shapes = [list(arrays[name].shape) if name in arrays else None for name in (mean, covariance)]
    if None in shapes or shapes[1] != 2 * shapes[0]:
        raise UserError(f'{path}: {mean} and {covariance} are {shapes}; they must be [D] and [D, D]')
    _check_covariance(path, covariance, arrays[covariance])
    return Gaussian(*(np.asarray(arrays[name], np.float64) for name in (mean, covariance)))


def _check_covariance(path: Path, name: str, array: np.ndarray) -> None:
    """UserError unless symmetric and positive semidefinite, up to the rounding of a file in float32."""
    matrix = np.asarray(array, np.float64)
    dimensions, scale = len(matrix), np.abs(matrix).max()
    eps = float(max(np.finfo(array.dtype).eps, np.finfo(np.float32).eps))
    tolerance = 16 * eps * dimensions**0.5 * scale
    remedy = f'{name} must be a covariance, such as np.cov(features, rowvar=False)'
    variances = np.diagonal(matrix)
    if variances.min() < -eps * scale:
        raise UserError(
            f'{path}: {name} has a negative variance, {variances.min():g} at {variances.argmin()}; {remedy}'
        )
    if np.abs(matrix - matrix.T).max() > tolerance:
        raise UserError(f'{path}: {name} is not symmetric; {remedy}')
    try:
        # Takes a tenth of the time of eigvalsh.
        np.linalg.cholesky(matrix + (tolerance or 1.0) * np.eye(dimensions))
    except np.linalg.LinAlgError:
        least = np.linalg.eigvalsh(matrix)[0]
        raise UserError(f'{path}: {name} has the negative eigenvalue {least:g}; {remedy}') from None


def _num_images(path: Path, arrays: dict[str, np.ndarray]) -> int:
    count = arrays.get('num_images', np.array(0))
    if count.ndim or count.dtype.kind not in 'iu' or count < 0:
        raise UserError(f'{path}: num_images is {count.tolist()!r}; it must be one integer, 0 or more')
    return int(count)


def of_features(features: np.ndarray) -> FeatureSet:
    """features: [N, D], of any floating-point type, which is kept: float64 may have digits of its own."""
    return FeatureSet(len(features), moments(features), features=features)


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
