"""`diffusion-jax evaluate`: two sets of images, features or statistics, by the paper's metrics."""

from __future__ import annotations

import argparse
import logging
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffusion_jax.checks import between
from diffusion_jax.data.stored.source import SourceImages
from diffusion_jax.data.transforms import Size
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.comparison import Side, check_comparable, compare, features_of, open_side
from diffusion_jax.evaluation.config import RESIZES, check_bootstrap
from diffusion_jax.evaluation.extractors import Extractor, inception_extractor
from diffusion_jax.evaluation.feature_sets import FeatureSet
from diffusion_jax.evaluation.inception.files import load_inception
from diffusion_jax.evaluation.protocol import description, protocol, remarks, sampling_protocol, table
from diffusion_jax.interruption import stop_requests
from diffusion_jax.settings import file_path
from diffusion_jax.sharding import make_mesh
from diffusion_jax.workdir import check_place, lock, read_stamp, write_json

logger = logging.getLogger(__name__)

DESCRIPTION = """\
FID, sFID, Inception score, precision, recall and KID of samples against a reference, as the authors'
evaluator computes them. `diffusion-jax convert-inception` makes the weights of Inception of known files.

SAMPLES and REFERENCE are each one of
  an npz in the authors' format: images as arr_0, uint8 [N, H, W, 3]; or statistics, mu, sigma, mu_s, sigma_s;
      or both, as in VIRTUAL_imagenet256_labeled.npz and what `diffusion-jax make-reference` writes
  a folder of samples, such as runs/imagenet256/samples; those that are there by now, while more are drawn
  a folder of image files of one size, or cropped to --size
  features of a network of your own, [N, D] in an .npy, or in an npz as `features`: Fréchet distance,
      precision, recall and KID are of these, and no Inception is needed

      diffusion-jax evaluate runs/imagenet256/samples VIRTUAL_imagenet256_labeled.npz \\
          --inception=inception.safetensors
      diffusion-jax evaluate dinov2_of_samples.npy dinov2_of_reference.npy

A run that was stopped goes on when the same command is given again."""


def main(argv: Sequence[str]) -> int:
    """Runs the command with its arguments, its name first; returns the exit code.

    Raises:
        UserError: the arguments, one of the sets or the weights are wrong.
        Interrupted: on a signal; what was computed is kept.
    """
    parser = argparse.ArgumentParser(
        prog=argv[0], description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('samples', type=file_path, metavar='SAMPLES')
    parser.add_argument('reference', type=file_path, metavar='REFERENCE')
    add_arguments(parser)
    parser.add_argument(
        '--bootstrap', type=int, default=0, metavar='N', help='standard errors from N resamplings; 20 will do'
    )
    parser.add_argument(
        '--out', type=file_path, metavar='FILE', help='for the result; by default a file in the workdir'
    )
    args = parser.parse_args(argv[1:])
    check_bootstrap('--bootstrap', args.bootstrap)
    sides = [open_side(path, args.size) for path in (args.samples, args.reference)]
    check_size_is_used(args.size, sides)
    extractor = make_extractor(args, sides)
    check_comparable(*sides, extractor)
    out = Path(args.out or args.workdir / _result_name(args.samples, args.reference, extractor))
    check_place(out)
    with stop_requests() as stop:
        of_samples = look(sides[0], extractor, args.workdir, stop, keep_spatial=args.bootstrap > 0)
        of_reference = look(sides[1], extractor, args.workdir, stop, is_reference=True)
        result = compare(of_samples, of_reference, extractor and extractor.logits, args.bootstrap)
    about = protocol(sides[0], of_samples, sides[1], of_reference) | (extractor.protocol if extractor else {})
    result |= {'remarks': remarks(about, of_samples, of_reference), 'protocol': _origin(args.samples) | about}
    write_json(out, result)
    print(f'{out}:\n{table(result)}\n\n{description(result["protocol"])}')
    for remark in result['remarks']:
        print(f'note: {remark}')
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the commands that look at images share."""
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
    """Inception, where there are images to look at. UserError where its weights are missing."""
    images = [side.name for side in sides if side.images is not None]
    if not images:
        if args.inception:
            raise UserError('--inception looks at images; neither side has any, leave it out')
        return None
    if not args.inception:
        raise UserError(
            f'{images[0]}: its images are compared by Inception; name its weights with --inception, see '
            '`diffusion-jax convert-inception --help`'
        )
    between('--batch-size', args.batch_size, 1)
    inception = load_inception(args.inception)
    return inception_extractor(inception, make_mesh(), resize=args.resize, batch_size=args.batch_size)


def look(
    side: Side, extractor: Extractor | None, workdir: Path, stop: Callable[[], bool], **options: bool
) -> FeatureSet:
    """See `features_of`; those of a set of images stand in a folder of their own, which is held meanwhile."""
    if side.images is None:
        return side.stored
    folder = workdir / 'features' / _name(side.name)
    with lock(folder):
        return features_of(side, extractor, folder, stop, **options)


def read_size(text: str) -> Size:
    """'256' or '256x384', height first."""
    sides = text.lower().replace('×', 'x').split('x')
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise UserError(f'--size is {text!r}; give pixels, such as 256, or 256x384, height first')
    return int(sides[0]), int(sides[-1])


def check_size_is_used(size: Size | None, sides: Sequence[Side]) -> None:
    """UserError where a size is given and there are no image files that could be cropped to it."""
    if size is not None and not any(isinstance(side.images, SourceImages) for side in sides):
        raise UserError('--size crops image files; there is no folder of them, leave it out')


def _result_name(samples: str, reference: str, extractor: Extractor | None) -> str:
    """Another one for other sets, and for other features of them."""
    rests_on = [Path(samples).absolute(), Path(reference).absolute(), extractor and extractor.name]
    digest = zlib.crc32(repr(rests_on).encode())
    return f'{_stem(samples)}-against-{_stem(reference)}-{digest:08x}.json'


def _name(path: str) -> str:
    return f'{_stem(path)}-{zlib.crc32(str(Path(path).absolute()).encode()):08x}'


def _origin(samples: str) -> dict[str, Any]:
    """How samples of ours were drawn; nothing of others."""
    path = Path(samples)
    stamp = read_stamp(path if path.is_dir() else path.parent)
    return sampling_protocol(stamp) if stamp and 'sample' in stamp else {}


def _stem(path: str) -> str:
    """A name for a set: that of the file, or of the folder and what it stands in."""
    resolved = Path(path).absolute()
    return f'{resolved.parent.name}_{resolved.name}' if resolved.is_dir() else resolved.stem
