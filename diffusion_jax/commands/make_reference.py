"""`diffusion-jax make-reference`: the authors' reference file of any images."""

import argparse
from collections.abc import Sequence

import numpy as np

from diffusion_jax.command_line import Parser, read_config
from diffusion_jax.commands import image_sets
from diffusion_jax.config import read_experiment
from diffusion_jax.data.image_sets import open_images
from diffusion_jax.data.image_sets.source import open_split
from diffusion_jax.data.sources.files import shown
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.eval_set import EvalSet, make_extractor, with_features, with_images
from diffusion_jax.evaluation.feature_stats import REFERENCE_ROWS, kept_rows, save_statistics
from diffusion_jax.evaluation.protocol import stats_caveats
from diffusion_jax.interruption import stop_requests
from diffusion_jax.memory import out_of_memory
from diffusion_jax.settings import file_path
from diffusion_jax.sharding import make_mesh

DESCRIPTION = f"""\
Writes a reference that samples are compared with: means and covariances of Inception's features of all images
(mu, sigma, mu_s, sigma_s), and {REFERENCE_ROWS:,} of the images, chosen at random, for precision and recall
(arr_0). `diffusion-jax evaluate` and the authors' evaluator read it. The paper's references are of all
training images.

IMAGES is a folder of image files, an npz, or a folder of samples. Alternatively the section `data` of a
config gives the images, cropped as for training:

      diffusion-jax make-reference imagenet/train --size=256 --out=reference.npz \\
          --inception=inception.safetensors
      diffusion-jax make-reference --config=folder --config.data.path=images \\
          --config.data.num_classes=7 --out=reference.npz --inception=inception.safetensors

A stopped run resumes when the same command is given again."""


def main(argv: Sequence[str]) -> int:
    """Runs the command, its name first in argv; returns the exit code."""
    parser = Parser(argv[0], DESCRIPTION)
    parser.add_argument('images', nargs='?', type=file_path, metavar='IMAGES')
    image_sets.add_arguments(parser, inception_required=True)
    parser.add_argument('--config', metavar='NAME|FILE', help='an experiment whose images are used')
    parser.add_argument('--split', choices=('train', 'test'), help="of the config's images; by default train")
    parser.add_argument('--out', type=file_path, required=True, metavar='FILE.npz')
    args, settings = parser.parse_known_args(argv[1:])
    images = image_sets.with_directory(_open(args, settings), args.workdir)
    config = image_sets.read_config(args)
    extractor = make_extractor(images, images, config, make_mesh(), '--inception')
    if not args.out.endswith('.npz'):
        raise UserError('--out', f'got {args.out!r}', 'must end in .npz')
    image_sets.check_out(args.out, args.images, args.inception)
    with stop_requests() as stop, out_of_memory('the features', f'lower --batch-size ({config.batch_size})'):
        stats = with_features(images, extractor, stop, REFERENCE_ROWS).stats
    assert stats.rows is not None and images.images is not None
    chosen = stats.rows[kept_rows(len(stats.rows), REFERENCE_ROWS)]
    print(f'reading {len(chosen):,} of the images for precision and recall')
    rgb = images.images.take(chosen)
    save_statistics(args.out, stats, np.broadcast_to(rgb, (*rgb.shape[:-1], 3)))
    print(f'{shown(args.out)}: statistics of {stats.num_images:,} images of {images.name}')
    for reason in stats.unreadable:
        print(f'left out: {reason}')
    for caveat in stats_caveats('images', stats._replace(unreadable=())):
        print(f'note: {caveat}')
    return 0


def _open(args: argparse.Namespace, settings: Sequence[str]) -> EvalSet:
    """The images that the arguments name."""
    if bool(args.config) == bool(args.images):
        problem = 'given in addition to --config' if args.images else 'is missing'
        raise UserError('IMAGES', problem, 'give either IMAGES or --config=NAME|FILE')
    if args.config:
        if args.size:
            raise UserError('--size', 'has no effect with --config', 'use --config.data.image_size')
        data = read_experiment(read_config(args.config, settings)).data
        return with_images(open_split(data, args.split or 'train'))
    if settings:
        raise UserError(' '.join(settings), 'unrecognized', 'see --help')
    if args.split:
        raise UserError('--split', f'got {args.split!r} without --config', 'omit it')
    images = with_images(open_images(args.images, args.size))
    image_sets.check_size_is_used(args.size, images)
    return images
