"""`diffusion-jax evaluate`: two sets of images, features or statistics, by the paper's metrics."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_jax.commands.image_sets import (
    add_arguments,
    check_out,
    check_size_is_used,
    enlarged,
    look,
    make_extractor,
    stem,
)
from diffusion_jax.commands.parser import Parser
from diffusion_jax.data.sources.files import shown
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.classes import Matched, about_classes, known_classes, match, sampled_classes
from diffusion_jax.evaluation.comparison import Side, check_comparable, compare, open_side
from diffusion_jax.evaluation.config import check_bootstrap
from diffusion_jax.evaluation.extractors import Extractor
from diffusion_jax.evaluation.feature_sets import FeatureSet
from diffusion_jax.evaluation.protocol import description, protocol, remarks, sampling_protocol, table
from diffusion_jax.interruption import stop_requests
from diffusion_jax.settings import file_path
from diffusion_jax.shards import SHARDS
from diffusion_jax.stages.sample import SAMPLES_FILE
from diffusion_jax.workdir import read_stamp, write_json

DESCRIPTION = """\
FID, sFID, Inception score, precision, recall and KID of samples against a reference, as the authors'
evaluator computes them. `diffusion-jax convert-inception` makes the weights of Inception of known files.

SAMPLES and REFERENCE are each one of
  an npz in the authors' format: images as arr_0, uint8 [N, H, W, 3]; or statistics, mu, sigma, mu_s, sigma_s;
      or both, as in VIRTUAL_imagenet256_labeled.npz and what `diffusion-jax make-reference` writes
  a folder of samples, such as runs/imagenet256/samples; those that are there by now, while more are drawn
  a folder of image files of one size, or cropped to --size
  features of a network of your own, float [N, D] in an .npy, or in an npz as `features`: Fréchet distance,
      precision, recall and KID are of these, and no Inception is needed
Give images on both sides, or features of one network on both sides. Without --inception the pixels of images
up to 32×32×3 are compared, by the same metrics; the result is comparable with nothing else.

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
    parser = Parser(argv[0], DESCRIPTION)
    parser.add_argument('samples', type=file_path, metavar='SAMPLES')
    parser.add_argument('reference', type=file_path, metavar='REFERENCE')
    add_arguments(parser)
    parser.add_argument(
        '--bootstrap', type=int, default=0, metavar='N', help='standard errors from N resamplings; 20 will do'
    )
    parser.add_argument(
        '--same-classes',
        action='store_true',
        help='compares samples of some classes with the images of these classes alone, where both sides say '
        'the classes of their images: labels, or sub-folders of a folder of images',
    )
    parser.add_argument(
        '--out', type=file_path, metavar='FILE', help='for the result; by default a file in the workdir'
    )
    args = parser.parse_args(argv[1:])
    check_bootstrap('--bootstrap', args.bootstrap)
    samples, reference = (open_side(path, args.size) for path in (args.samples, args.reference))
    check_size_is_used(args.size, [samples, reference])
    stamps = [_stamp_of(path) for path in (args.samples, args.reference)]
    matched = _matched(samples, reference, stamps, same_classes=args.same_classes)
    reference = matched.side
    extractor = make_extractor(args, [samples, reference])
    check_comparable(samples, reference, extractor)
    name = _result_name(args.samples, args.reference, reference.part, extractor)
    out = check_out(args.out or args.workdir / name, args.samples, args.reference, args.inception)
    with stop_requests() as stop:
        of_samples = look(samples, extractor, args.workdir, stop, keep_spatial=args.bootstrap > 0)
        of_reference = look(reference, extractor, args.workdir, stop, is_reference=True)
        result = compare(of_samples, of_reference, extractor and extractor.logits, args.bootstrap)
    about, found = about_classes(matched)
    about = protocol(samples, of_samples, reference, of_reference) | about
    about |= extractor.protocol if extractor else {'features': 'read from the files'}
    found += remarks(about, of_samples, of_reference)
    found += _not_yet_drawn(stamps[0], of_samples) + enlarged([samples, reference], args.size)
    if Path(args.samples).resolve() == Path(args.reference).resolve():
        found.append('the samples were compared with themselves')
    result |= {'remarks': found, 'protocol': _origin(stamps[0]) | about}
    write_json(out, result)
    print(f'{shown(out)}:\n{table(result)}\n\n{description(result["protocol"])}')
    for remark in result['remarks']:
        print(f'note: {remark}')
    return 0


def _matched(
    samples: Side, reference: Side, stamps: Sequence[Mapping[str, Any]], *, same_classes: bool
) -> Matched:
    """The reference; with --same-classes of the samples' classes alone. UserError where that cannot be."""
    names = [stamp.get('classes') or () for stamp in stamps]
    ours, theirs = (
        None if side.images is None else known_classes(side.images, names)
        for side, names in zip((samples, reference), names, strict=True)
    )
    how = stamps[0].get('sample', {})
    drawn_from = how.get('classes') or range(len(names[0])) if how.get('labels') == 'random' else ()
    sampled = sampled_classes(ours, theirs, drawn_from)
    matched = match(sampled, reference, theirs, restrict=same_classes)
    if same_classes and sampled is None:
        raise UserError(f'--same-classes: nothing says the classes of {samples.name}; leave it out')
    if same_classes and (matched.reason or matched.unknown):
        raise UserError(
            f'--same-classes: the samples are of {sampled.named()}; {reference.name} cannot be restricted to '
            f'them: {matched.reason or matched.unknown}; leave it out, or give images of these classes alone'
        )
    return matched


def _result_name(samples: str, reference: str, part: str, extractor: Extractor | None) -> str:
    """Another one for other sets, and for other features of them."""
    rests_on = [Path(samples).absolute(), f'{Path(reference).absolute()}{part}', extractor and extractor.name]
    digest = zlib.crc32(repr(rests_on).encode())
    return f'{stem(samples)}-against-{stem(reference)}-{digest:08x}.json'


def _stamp_of(path: str) -> Mapping[str, Any]:
    """The stamp of samples of ours: of their folder, its shards, or the one file of all; {} of others."""
    place = Path(path)
    if place.name in (SHARDS, SAMPLES_FILE):
        place = place.parent
    stamp = read_stamp(place) if place.is_dir() else None
    return stamp if stamp and 'sample' in stamp else {}


def _origin(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """How samples of ours were drawn; nothing of others."""
    return sampling_protocol(stamp) if stamp else {}


def _not_yet_drawn(stamp: Mapping[str, Any], found: FeatureSet) -> list[str]:
    wanted = stamp.get('sample', {}).get('num_samples', 0)
    if found.num_images + len(found.left_out) >= wanted:
        return []
    return [f'{found.num_images:,} of {wanted:,} samples are drawn so far; the result is of these']
