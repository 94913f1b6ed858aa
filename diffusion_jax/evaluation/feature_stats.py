"""Features of a set of images and their moments, from shards of features or from a file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_jax.data.npz import read_archive, read_array
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.extraction import POSITIONS, SIZE, UNREADABLE
from diffusion_jax.evaluation.extractors import FEATURES, SPATIAL
from diffusion_jax.evaluation.frechet import Moments, fit, moments
from diffusion_jax.shards import Shard, read
from diffusion_jax.workdir import write_npz

# Precision, recall and KID use this many images of a reference, drawn at random; moments are of all. The
# authors' reference files hold the same number.
REFERENCE_ROWS = 10_000
LARGEST = 1e25  # the sixth powers of KID, and their squares in its error, stay finite in float64
LEAST_IMAGES = 4  # precision and recall need three neighbours of each

# The arrays of a file.
SHAPES = {'mu': '[D]', 'sigma': '[D, D]', 'mu_s': '[D]', 'sigma_s': '[D, D]', FEATURES: '[N, D]'}


class FeatureStats(NamedTuple):
    """Features of a set of images, and what is known of the set.

    Attributes:
        num_images: that the moments are of; 0 if unknown.
        moments: of the features.
        spatial: the moments of Inception's spatial features.
        features: [N, D] of any float type, of all images or of some.
        spatial_features: [N, D] likewise.
        rows: [N], the indices of these images in the set; None if the features are from a file.
        image_size: height and width.
        extractor: the name of the extractor that computed the statistics; '' if a file does not record it.
        unreadable: '<file>: <reason>' for each image that could not be read.
        skipped: the other files of a folder, by kind; '' if there were none.
    """

    num_images: int = 0
    moments: Moments | None = None
    spatial: Moments | None = None
    features: np.ndarray | None = None
    spatial_features: np.ndarray | None = None
    rows: np.ndarray | None = None
    image_size: tuple[int, int] | None = None
    extractor: str = ''
    unreadable: Sequence[str] = ()
    skipped: str = ''


def of_features(features: np.ndarray) -> FeatureStats:
    """features: [N, D] of any float type, which is kept."""
    return FeatureStats(len(features), moments(features), features=features)


def from_shards(shards: Sequence[Shard], max_rows: int | None = None, *, name: str = '') -> FeatureStats:
    """The features in shards of `extract`. Raises UserError if fewer than LEAST_IMAGES images are readable.

    Args:
        max_rows: the number of images whose features are kept, drawn at random.
        name: of the set, for messages.
    """
    kept = kept_rows(sum(shard.stop - shard.start for shard in shards), max_rows)
    chosen, rows, unreadable, first, count = {}, [], [], 0, 0
    for shard in shards:
        arrays = read(shard, POSITIONS, UNREADABLE)
        positions = first + arrays[POSITIONS]
        unreadable += arrays[UNREADABLE].tolist()
        if len(positions):
            chosen[shard] = kept[positions]
            rows.append(positions[kept[positions]])
        first += shard.stop - shard.start
        count += len(positions)
    check_enough(name or str(shards[0].path.parent), count, unreadable)

    def blocks(kind: str) -> Iterator[np.ndarray]:
        return (read(shard, kind)[kind] for shard in chosen)

    def join(kind: str) -> np.ndarray:
        return np.concatenate([read(shard, kind)[kind][keep] for shard, keep in chosen.items()])

    example = read(next(iter(chosen)))
    return FeatureStats(
        num_images=count,
        moments=fit(blocks(FEATURES)),
        spatial=fit(blocks(SPATIAL)) if SPATIAL in example else None,
        features=join(FEATURES),
        spatial_features=join(SPATIAL) if SPATIAL in example else None,
        rows=np.concatenate(rows),
        image_size=tuple(example[SIZE].tolist()),
        unreadable=unreadable,
    )


def check_enough(name: str, count: int, unreadable: Sequence[str] = ()) -> None:
    """Raises UserError if a set has too few images for metrics."""
    if count < LEAST_IMAGES:
        reason = f' ({unreadable[0]})' if unreadable else ''
        raise UserError(name, f'has {count} readable images{reason}', f'at least {LEAST_IMAGES} are needed')


def kept_rows(total: int, max_rows: int | None) -> np.ndarray:
    """bool [total]: which images represent all; the same at every call."""
    kept = np.ones(total, bool)
    if max_rows is not None and total > max_rows:
        kept[np.random.default_rng(0).permutation(total)[max_rows:]] = False
    return kept


def from_file(path: Path) -> FeatureStats:
    """The statistics mu, sigma, mu_s and sigma_s in an npz, or features [N, D] in an .npy or an npz.

    Statistics in a file take precedence over those of its features.
    Raises UserError if the file cannot be read, or an array does not fit its name.
    """
    if path.suffix == '.npy':
        arrays = {FEATURES: read_array(path)}
    else:
        arrays = read_archive(path, (*SHAPES, 'num_images', 'extractor'))
    for name in arrays.keys() & SHAPES.keys():
        _check_array(path, name, arrays[name])
    stats = FeatureStats(
        int(arrays.get('num_images', 0)),
        _moments(path, arrays, 'mu', 'sigma'),
        _moments(path, arrays, 'mu_s', 'sigma_s'),
        arrays.get(FEATURES),
        extractor=str(arrays.get('extractor', '')),
    )
    if stats.features is None:
        return stats
    check_enough(f'{path}', len(stats.features))
    if stats.moments is None:
        return of_features(stats.features)
    dimensions = len(stats.moments.mean)
    if stats.features.shape[1] != dimensions:
        raise UserError(f'{path}', f'features has {stats.features.shape[1]} features, mu has {dimensions}')
    return stats


def _check_array(path: Path, name: str, array: np.ndarray) -> None:
    if array.dtype.kind != 'f' or array.ndim != 1 + SHAPES[name].count(',') or not array.size:
        hint = '; images go into an npz, as arr_0' if array.dtype == np.uint8 else ''
        problem = f'{name} is {array.dtype} {list(array.shape)}'
        raise UserError(f'{path}', problem, f'it must be float {SHAPES[name]}{hint}')
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        raise UserError(f'{path}', f'{name} is not finite in row {wrong[0][0]}')
    if max(float(array.max()), -float(array.min())) > LARGEST:
        raise UserError(f'{path}', f'{name} has values beyond ±{LARGEST:g}', 'scale down both sets')


def _moments(path: Path, arrays: dict[str, np.ndarray], mean: str, covariance: str) -> Moments | None:
    stored = [arrays[name] for name in (mean, covariance) if name in arrays]
    if not stored:
        return None
    shapes = [list(array.shape) for array in stored]
    if len(shapes) < 2 or shapes[1] != 2 * shapes[0]:
        raise UserError(f'{path}', f'{mean} and {covariance} have the shapes {shapes}', 'give [D] and [D, D]')
    vector, matrix = (np.asarray(array, np.float64) for array in stored)
    eps = float(max(np.finfo(stored[1].dtype).eps, np.finfo(np.float32).eps))  # of the file's rounding
    tolerance = 16 * eps * len(matrix) ** 0.5 * np.abs(matrix).max()
    remedy = 'it must be a covariance, such as np.cov(features, rowvar=False)'
    if np.abs(matrix - matrix.T).max() > tolerance:
        raise UserError(f'{path}', f'{covariance} is not symmetric', remedy)
    try:  # a tenth of the time of eigvalsh
        np.linalg.cholesky(matrix + (tolerance or 1.0) * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        raise UserError(f'{path}', f'{covariance} is not positive semidefinite', remedy) from None
    return Moments(vector, matrix)


def save_statistics(path: str | Path, stats: FeatureStats, images: np.ndarray) -> None:
    """Writes an npz that the authors' evaluator accepts as its reference; it ignores the additional arrays.

    images: uint8 [N, H, W, 3], for precision and recall.
    """
    assert stats.moments is not None
    arrays = {'mu': stats.moments.mean, 'sigma': stats.moments.covariance}
    if stats.spatial is not None:
        arrays |= {'mu_s': stats.spatial.mean, 'sigma_s': stats.spatial.covariance}
    origin = {'num_images': np.array(stats.num_images), 'extractor': np.array(stats.extractor)}
    write_npz(path, arr_0=images, **arrays, **origin)
