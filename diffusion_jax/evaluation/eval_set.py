"""The two sets that an evaluation compares: images, statistics of their features, or both."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from diffusion_jax.data.image_sets import open_images
from diffusion_jax.data.image_sets.archive import shard_folder
from diffusion_jax.data.image_sets.base import ArrayImages, ImageSet
from diffusion_jax.data.image_sets.source import SourceImages
from diffusion_jax.data.npz import names_in_archive
from diffusion_jax.data.sources.files import shown
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.config import EvaluateConfig
from diffusion_jax.evaluation.extraction import extract
from diffusion_jax.evaluation.extractors import Extractor, inception_extractor, pixel_extractor
from diffusion_jax.evaluation.feature_stats import FeatureStats, check_enough, from_file, from_shards
from diffusion_jax.evaluation.inception.files import load_inception
from diffusion_jax.images import Size
from diffusion_jax.workdir import STAMP_FILE

MAX_PIXEL_FEATURES = 3 * 32 * 32  # covariances of larger images take minutes and gigabytes


class EvalSet(NamedTuple):
    """Attributes:
    images: None if only statistics are known.
    stats: from a file; for the authors' reference files the statistics of more than `images`.
    directory: for the features of the images.
    classes: the classes to which a reference is restricted, and how they were matched; '' if it is not.
    caveats: about the classes of a reference.
    """

    name: str
    images: ImageSet | None
    stats: FeatureStats = FeatureStats()
    directory: Path = Path('features')
    classes: str = ''
    caveats: tuple[str, ...] = ()


def open_eval_set(path: str | Path, size: Size | None = None) -> EvalSet:
    """An npz of images, statistics or features, an .npy of features, a folder of images or of samples.

    size: the height and width to which image files in a folder are cropped.
    Raises UserError if it is none of these, or cannot be used; see `open_images` and `from_file`.
    """
    path = Path(path)
    if path.is_dir():
        # Refuse a folder of a run: its pictures, such as grids, are not samples.
        stamps = (folder / STAMP_FILE for folder in (path, path / 'samples', path / 'diffusion'))
        is_of_run = shard_folder(path / 'samples') is not None or any(stamp.exists() for stamp in stamps)
        if is_of_run and shard_folder(path) is None:
            remedy = f'give its samples, {path / "samples"}, which the stage sample draws'
            raise UserError(f'{path}', 'is a folder of a run, not of its samples', remedy)
        return with_images(open_images(path, size), shown(path))
    stats = from_file(path)
    if path.suffix != '.npy' and 'arr_0' in names_in_archive(path):
        return with_images(open_images(path), shown(path))._replace(stats=stats)
    if stats.moments is None:
        problem = f'has the arrays {", ".join(names_in_archive(path))}'
        raise UserError(f'{path}', problem, 'needed are images (arr_0), statistics (mu, sigma) or features')
    return EvalSet(shown(path), None, stats)


def with_images(images: ImageSet, name: str = '') -> EvalSet:
    """A set of images. Raises UserError if they are too few for any metric."""
    check_enough(images.name, len(images))
    return EvalSet(name or images.name, images)


def with_features(
    one: EvalSet, extractor: Extractor | None, stop: Callable[[], bool], max_rows: int | None = None
) -> EvalSet:
    """The set with the features of its images, and with their moments if no file has moments of more images.

    Args:
        extractor: None to use files only.
        max_rows: keeps the features of this number of images, but of all in an npz.

    Raises:
        UserError, Interrupted: see `extract` and `from_shards`.
    """
    if one.images is None or extractor is None or one.stats.rows is not None:
        return one
    hosts = {'host': jax.process_index(), 'num_hosts': jax.process_count()}
    shards = extract(one.images, extractor, one.directory, stop, **hosts)
    max_rows = None if isinstance(one.images, ArrayImages) else max_rows
    stats = from_shards(shards, max_rows, name=one.name)._replace(extractor=extractor.name)
    if isinstance(one.images, SourceImages) and one.images.source.skipped:
        stats = stats._replace(skipped=f'{one.name}: {one.images.source.skipped}')
    if one.stats.moments is not None:  # of more images than a file of the authors holds
        fields = ('num_images', 'extractor', 'moments', 'spatial')
        stats = stats._replace(**{field: getattr(one.stats, field) for field in fields})
    return one._replace(stats=stats)


def make_extractor(
    samples: EvalSet, reference: EvalSet, config: EvaluateConfig, mesh: jax.sharding.Mesh, setting: str
) -> Extractor | None:
    """The extractor for two sets; None to use the statistics of their files.

    setting: the name of `config.inception`, for messages.
    Raises UserError if the sets cannot be compared.
    """
    stored = {one.name: moments for one in (samples, reference) if (moments := one.stats.moments) is not None}
    if config.inception:
        if samples.images is None and reference.images is None:
            raise UserError(setting, 'has no effect: neither set has images', 'omit it')
        weights = load_inception(config.inception)
        extractor = inception_extractor(weights, mesh, config.resize, config.batch_size)
    elif samples.stats.moments is not None and reference.stats.moments is not None:
        extractor = None
    elif stored:
        ((name, moments),) = stored.items()
        dimensions = len(moments.mean)
        raise UserError(
            name,
            f'has features ({dimensions} per image), but the other set has images',
            'give images on both sides, features of one network on both sides (.npy, float '
            f'[N, {dimensions}]), or Inception as {setting} (`diffusion-jax convert-inception --help`)',
        )
    else:
        extractor = _pixel_extractor(samples, reference, setting)
    for ours, theirs in zip(_origin(samples, extractor), _origin(reference, extractor), strict=True):
        if ours != theirs and None not in (ours, theirs):
            raise UserError(
                samples.name,
                f'has {ours}, {reference.name} has {theirs}',
                'give images on both sides, or features of one network, with the same weights and resize',
            )
    return extractor


def _origin(one: EvalSet, extractor: Extractor | None) -> list[str | None]:
    """What must be the same for both sets; None if unknown."""
    stats, images = one.stats, 'features per image'
    if stats.moments is None:
        assert extractor is not None
        dimensions = None if extractor.dimensions is None else f'{extractor.dimensions} {images}'
        return [f'features of {extractor.name}', dimensions, None]
    spatial = None if stats.spatial is None else f'{len(stats.spatial.mean)} spatial {images}'
    made_by = f'features of {stats.extractor}' if stats.extractor else None
    return [made_by, f'{len(stats.moments.mean)} {images}', spatial]


def _pixel_extractor(samples: EvalSet, reference: EvalSet, setting: str) -> Extractor:
    remedy = f'set {setting} to compare features of Inception (`diffusion-jax convert-inception --help`)'
    shapes = []
    for one in (samples, reference):
        assert one.images is not None
        images, _, unreadable = one.images.read(one.images.parts[0])
        if not len(images):
            raise UserError(one.name, f'its first images are unreadable ({unreadable[0]})')
        shapes.append(images.shape[1:])
        if images[0].size > MAX_PIXEL_FEATURES:
            raise UserError(
                one.name,
                f'has images of {_text(shapes[-1])}; without {setting} pixels are compared, up to 32×32×3',
                f'{remedy}, or evaluate features of another network, float [N, D] '
                '(`diffusion-jax evaluate SAMPLES.npy REFERENCE.npy`)',
            )
    ours, theirs = shapes
    if ours[:2] != theirs[:2]:
        problem = f'has images of {_text(ours)}, {reference.name} of {_text(theirs)}'
        raise UserError(samples.name, problem, remedy)
    return pixel_extractor(rgb=ours != theirs)


def _text(shape: tuple[int, ...]) -> str:
    return '×'.join(map(str, shape))
