"""What the commands that read images share: arguments, what images are compared by, where features go."""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from diffusion_jax.checks import between
from diffusion_jax.data.image_sets.source import SourceImages
from diffusion_jax.data.sources.reading import read_header
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.comparison import Side, features_of
from diffusion_jax.evaluation.config import RESIZES
from diffusion_jax.evaluation.extractors import Extractor, inception_extractor
from diffusion_jax.evaluation.feature_sets import FeatureSet
from diffusion_jax.evaluation.inception.files import load_inception
from diffusion_jax.evaluation.pixels import image_shape, pixels_of
from diffusion_jax.images import Size
from diffusion_jax.memory import out_of_memory
from diffusion_jax.settings import file_path
from diffusion_jax.sharding import make_mesh
from diffusion_jax.workdir import check_writable, lock

LARGEST_SIZE = 8192
EXAMINED = 1000  # image files, in random order, that are asked for their size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what these commands share."""
    parser.add_argument(
        '--inception', type=file_path, metavar='FILE', help='its weights, see `convert-inception`'
    )
    parser.add_argument(
        '--size', type=read_size, metavar='N or HxW', help='centre-crops image files to this size'
    )
    parser.add_argument(
        '--resize',
        choices=RESIZES,
        default=RESIZES[0],
        help="to 299×299 pixels; the first is the paper's",
    )
    parser.add_argument('--batch-size', type=int, default=64, metavar='N', help='on all devices together')
    parser.add_argument(
        '--workdir',
        type=lambda text: Path(file_path(text)),
        default=Path('runs/evaluation'),
        metavar='FOLDER',
        help='takes features, 16 KB an image, so that none is computed twice; by default runs/evaluation',
    )


def make_extractor(args: argparse.Namespace, sides: Sequence[Side]) -> Extractor | None:
    """What images are compared by; None where both sides have statistics or features.

    Raises:
        UserError: the sides cannot be compared with each other, or not without Inception.
    """
    between('--batch-size', args.batch_size, 1)
    with_images = [side for side in sides if side.images is not None]
    if args.inception:
        if not with_images:
            raise UserError('--inception looks at images; neither side has any, leave it out')
        return _inception(args)
    if args.resize != RESIZES[0]:
        raise UserError(f"--resize is {args.resize!r}; it is Inception's, give --inception too")
    stored = [side for side in sides if side.stored.gaussian is not None]
    if len(stored) == len(sides):
        return None
    if stored:
        (images,) = (side for side in sides if side is not stored[0])
        raise _features_and_images(stored[0], images)
    shapes = {side.name: image_shape(side.images) for side in sides}
    return pixels_of(shapes, '--inception', 'crop image files to 32 or less with --size')


def _inception(args: argparse.Namespace) -> Extractor:
    inception = load_inception(args.inception)
    return inception_extractor(inception, make_mesh(), resize=args.resize, batch_size=args.batch_size)


def _features_and_images(stored: Side, images: Side) -> UserError:
    """Says what to give instead."""
    what = 'statistics' if stored.stored.features is None else 'features'
    dimensions = len(stored.stored.gaussian.mean)
    return UserError(
        f'{stored.name}: has {what} ({dimensions} numbers an image), {images.name} has images; give images '
        f'on both sides; or features of one network on both sides, those of {images.name} as an .npy, float '
        f'[N, {dimensions}]; or, if they are of Inception, its weights with --inception (see `diffusion-jax '
        'convert-inception --help`)'
    )


def look(
    side: Side, extractor: Extractor | None, workdir: Path, stop: Callable[[], bool], **options: bool
) -> FeatureSet:
    """See `features_of`; those of a set of images stand in a folder of their own, which is held meanwhile."""
    if side.images is None or extractor is None:
        return side.stored
    folder = workdir / 'features' / f'{_name(side.name)}{side.part}'
    fits = out_of_memory(f'the features of {side.name}', f'lower --batch-size ({extractor.batch_size})')
    with lock(folder), fits:
        return features_of(side, extractor, folder, stop, **options)


def check_out(out: str | Path, *inputs: str | None) -> Path:
    """The path of a result. UserError where it cannot be written, or would replace what is read."""
    for given in filter(None, inputs):
        if Path(out).resolve() == Path(given).resolve():
            raise UserError(f'{out}: is also what is read; name another file with --out')
    check_writable(out)
    return Path(out)


def enlarged(sides: Sequence[Side], size: Size | None) -> list[str]:
    """A remark for each folder whose images are smaller than the size that they were cropped to."""
    found = []
    for side in sides:
        paths = getattr(getattr(side.images, 'source', None), 'paths', ())[:EXAMINED] if size else ()
        smaller = [path for path in paths if _is_smaller(path, size)]
        if smaller:
            found.append(
                f'{side.name}: {len(smaller)} of the {len(paths)} images examined are smaller than --size; '
                f'they were enlarged, such as {smaller[0]}'
            )
    return found


def _is_smaller(path: str, size: Size) -> bool:
    header = read_header(path)
    if header is None:  # is left out
        return False
    width, height = header[0]
    return height < size[0] or width < size[1]


def read_size(text: str) -> Size:
    """'256' or '256x384', height first."""
    sides = text.lower().replace('×', 'x').split('x')
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise UserError(f'--size is {text!r}; give pixels, such as 256, or 256x384, height first')
    if max(map(int, sides)) > LARGEST_SIZE:
        raise UserError(f'--size is {text!r}; at most {LARGEST_SIZE} pixels')
    return int(sides[0]), int(sides[-1])


def check_size_is_used(size: Size | None, sides: Sequence[Side]) -> None:
    """UserError where a size is given and there are no image files that could be cropped to it."""
    if size is not None and not any(isinstance(side.images, SourceImages) for side in sides):
        raise UserError('--size crops image files; there is no folder of them, leave it out')


def _name(path: str) -> str:
    return f'{stem(path)}-{zlib.crc32(str(Path(path).absolute()).encode()):08x}'


def stem(path: str) -> str:
    """A name for a set: that of the file, or of the folder and what it stands in."""
    resolved = Path(path).absolute()
    return f'{resolved.parent.name}_{resolved.name}' if resolved.is_dir() else resolved.stem
