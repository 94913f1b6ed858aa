"""What is known of a set of images when it is compared: features, and Gaussians fitted to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion_jax.data.stored.archive import read_archive, read_array
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.extraction import LEFT_OUT
from diffusion_jax.evaluation.extractors import FEATURES, SPATIAL
from diffusion_jax.evaluation.frechet import BLOCK, Gaussian, Moments, gaussian, moments, update
from diffusion_jax.shards import Shard, read
from diffusion_jax.workdir import write_npz

# Of a reference so many images, drawn at random, are taken for precision, recall and KID; means and
# covariances are of all. The authors' reference files hold as many.
REFERENCE_ROWS = 10_000


class FeatureSet(NamedTuple):
    """Attributes:
    num_images: that the Gaussians are of; 0 where a file does not say.
    gaussian: of the features; None where nothing says it.
    spatial: the same of Inception's spatial features.
    features: float32 [N, D], of all images or of some.
    spatial_features: the same of Inception's spatial features, where they were asked for.
    left_out: '<file>: <reason>' for each image that could not be used.
    """

    num_images: int
    gaussian: Gaussian | None = None
    spatial: Gaussian | None = None
    features: np.ndarray | None = None
    spatial_features: np.ndarray | None = None
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
    rows: dict[str, list[np.ndarray]] = {FEATURES: [], SPATIAL: []} if keep_spatial else {FEATURES: []}
    left_out: list[str] = []
    kept = kept_rows(sum(shard.stop - shard.start for shard in found), max_rows)
    for group in _groups(found):
        parts = [read(shard) for shard in group]
        for name in seen:
            block = [part[name] for part in parts if name in part]
            seen[name] = update(seen[name], np.concatenate(block)) if block else seen[name]
        for shard, part in zip(group, parts, strict=True):
            left_out += part[LEFT_OUT].tolist()
            chosen, kept = np.split(kept, [shard.stop - shard.start])
            for name in rows.keys() & part.keys():
                rows[name].append(part[name][chosen[: len(part[name])]])
    if seen[FEATURES].count < 2:
        first = f' ({left_out[0]})' if left_out else ''
        raise UserError(f'{found[0].path.parent}: fewer than two images could be used{first}')
    return FeatureSet(
        num_images=seen[FEATURES].count,
        gaussian=gaussian(seen[FEATURES]),
        spatial=gaussian(seen[SPATIAL]) if seen[SPATIAL].count else None,
        features=np.concatenate(rows[FEATURES]),
        spatial_features=np.concatenate(rows[SPATIAL]) if rows.get(SPATIAL) else None,
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
        arrays = read_archive(path, ('mu', 'sigma', 'mu_s', 'sigma_s', FEATURES))
    for name, array in arrays.items():
        if array.dtype.kind != 'f' or not np.isfinite(array).all():
            rows = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[:1]
            what = f'not finite in row {rows[0]}' if array.dtype.kind == 'f' else f'of type {array.dtype}'
            raise UserError(f'{path}: {name} is {what}; it must be of finite floating-point numbers')
    stored = FeatureSet(0, _gaussian(path, arrays, 'mu', 'sigma'), _gaussian(path, arrays, 'mu_s', 'sigma_s'))
    features = arrays.get(FEATURES)
    if features is None:
        return stored
    if features.ndim != 2 or len(features) < 2:
        raise UserError(f'{path}: features are {list(features.shape)}; needed are two rows [N, D] or more')
    return of_features(features)


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


def save_statistics(path: str | Path, features: FeatureSet, images: np.ndarray) -> None:
    """Writes an npz that the authors' evaluator takes as its reference.

    images: uint8 [N, H, W, 3], of which precision and recall take features.
    """
    arrays = {'mu': features.gaussian.mean, 'sigma': features.gaussian.covariance}
    if features.spatial is not None:
        arrays |= {'mu_s': features.spatial.mean, 'sigma_s': features.spatial.covariance}
    write_npz(path, arr_0=images, **arrays)


def kept_rows(total: int, max_rows: int | None) -> np.ndarray:
    """bool [total]: which images stand for all; the same ones whenever they are asked for."""
    kept = np.ones(total, bool)
    if max_rows is not None and total > max_rows:
        kept[np.random.default_rng(0).permutation(total)[max_rows:]] = False
    return kept
