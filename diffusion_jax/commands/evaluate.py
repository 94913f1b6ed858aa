"""`diffusion-jax evaluate`: compares two sets of images, features or statistics by the paper's metrics."""

import argparse
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_jax.command_line import Parser
from diffusion_jax.commands import image_sets
from diffusion_jax.data.sources.files import shown
from diffusion_jax.evaluation import comparison
from diffusion_jax.evaluation.classes import known_classes, match, sampled_classes
from diffusion_jax.evaluation.eval_set import EvalSet, make_extractor, open_eval_set
from diffusion_jax.evaluation.extractors import Extractor
from diffusion_jax.evaluation.protocol import report, sampling_protocol
from diffusion_jax.interruption import stop_requests
from diffusion_jax.memory import out_of_memory
from diffusion_jax.settings import file_path
from diffusion_jax.sharding import make_mesh
from diffusion_jax.shards import SHARDS
from diffusion_jax.stages.sample import SAMPLES_FILE
from diffusion_jax.workdir import read_stamp, write_json

DESCRIPTION = """\
FID, sFID, Inception score, precision, recall and KID of samples against a reference, as the authors'
evaluator computes them. `diffusion-jax convert-inception` makes the file of Inception's weights.

SAMPLES and REFERENCE are each one of
  an npz in the authors' format: images as arr_0, uint8 [N, H, W, 3]; or statistics, mu, sigma, mu_s, sigma_s;
      or both, as in VIRTUAL_imagenet256_labeled.npz and files of `diffusion-jax make-reference`
  a folder of samples, such as runs/imagenet256/samples; of an unfinished run, the existing ones
  a folder of image files of one size, or cropped to --size
  features of any network, float [N, D] in an .npy, or in an npz as `features`: Fréchet distance, precision,
      recall and KID are computed from these, without Inception
Give images on both sides, or features of one network on both sides. Without --inception the pixels of images
up to 32×32×3 are compared by the same metrics; the result is comparable with nothing else.

      diffusion-jax evaluate runs/imagenet256/samples VIRTUAL_imagenet256_labeled.npz \\
          --inception=inception.safetensors
      diffusion-jax evaluate dinov2_of_samples.npy dinov2_of_reference.npy

A stopped run resumes when the same command is given again."""


def main(argv: Sequence[str]) -> int:
    """Runs the command, its name first in argv; returns the exit code."""
    args = _parse(argv)
    config = image_sets.read_config(args)
    paths = args.samples, args.reference
    opened = [open_eval_set(path, args.size) for path in paths]
    samples, reference = (image_sets.with_directory(one, args.workdir) for one in opened)
    image_sets.check_size_is_used(args.size, samples, reference)
    stamps = [_stamp_of(path) for path in paths]
    names = [stamp.get('classes') or () for stamp in stamps]
    ours, theirs = map(known_classes, (samples.images, reference.images), names)
    reference = match(sampled_classes(ours, theirs), reference, theirs, same_classes=args.same_classes)
    extractor = make_extractor(samples, reference, config, make_mesh(), '--inception')
    out = args.out or args.workdir / _result_name(samples, reference, extractor)
    out = image_sets.check_out(out, *paths, args.inception)
    remedy = f'lower --batch-size ({config.batch_size})'
    with stop_requests() as stop, out_of_memory('the evaluation', remedy):
        result = comparison.evaluate(samples, reference, extractor, stop, config.bootstrap)
    if stamps[0]:
        result['protocol'] = sampling_protocol(stamps[0]) | result['protocol']
        count, wanted = result['num_samples'], stamps[0]['sample'].get('num_samples', 0)
        if count < wanted:
            result['remarks'].append(f'{count:,} of {wanted:,} samples exist so far; the result is of these')
    if samples.directory == reference.directory:
        result['remarks'].append('the samples were compared with themselves')
    write_json(out, result)
    print(f'{shown(out)}:\n{report(result)}')
    for remark in result['remarks']:
        print(f'note: {remark}')
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(argv[0], DESCRIPTION)
    add = parser.add_argument
    add('samples', type=file_path, metavar='SAMPLES')
    add('reference', type=file_path, metavar='REFERENCE')
    image_sets.add_arguments(parser)
    bootstrap = 'standard errors from N resamplings, such as 20'
    add('--bootstrap', type=int, default=0, metavar='N', help=bootstrap)
    same = (
        'compares samples of some classes with the images of these classes only; the classes of both '
        'sets must be known: labels, or sub-folders of a folder of images'
    )
    add('--same-classes', action='store_true', help=same)
    add('--out', type=file_path, metavar='FILE', help='for the result; by default a file in the workdir')
    return parser.parse_args(argv[1:])


def _result_name(samples: EvalSet, reference: EvalSet, extractor: Extractor | None) -> str:
    """Differs for other sets and other features."""
    compared = [str(samples.directory), str(reference.directory), extractor and extractor.name]
    digest = zlib.crc32(repr(compared).encode())
    return f'{image_sets.stem(samples.name)}-against-{image_sets.stem(reference.name)}-{digest:08x}.json'


def _stamp_of(path: str) -> Mapping[str, Any]:
    """The stamp of samples of a run: of their folder, its shards, or the one file of all; otherwise {}."""
    folder = Path(path)
    if folder.name in (SHARDS, SAMPLES_FILE):
        folder = folder.parent
    stamp = read_stamp(folder) if folder.is_dir() else None
    return stamp if stamp and 'sample' in stamp else {}
