"""`diffusion-jax make-reference`: the authors' reference file of any images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from diffusion_jax.command_line import read_config
from diffusion_jax.commands.image_sets import (
    add_arguments,
    check_out,
    check_size_is_used,
    enlarged,
    look,
    make_extractor,
)
from diffusion_jax.commands.parser import Parser
from diffusion_jax.config import read_experiment
from diffusion_jax.data.image_sets import open_images
from diffusion_jax.data.image_sets.base import ImageSet
from diffusion_jax.data.image_sets.source import open_split
from diffusion_jax.data.sources.files import shown
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.comparison import Side
from diffusion_jax.evaluation.feature_sets import REFERENCE_ROWS, kept_rows, save_statistics
from diffusion_jax.interruption import stop_requests
from diffusion_jax.settings import file_path

DESCRIPTION = f"""\
Writes what samples are compared with: means and covariances of Inception's features of all images (mu,
sigma, mu_s, sigma_s), and {REFERENCE_ROWS:,} of the images, chosen at random, for precision and recall
(arr_0). `diffusion-jax evaluate` takes it, and so does the authors' evaluator. The paper's references are of
all training images.

IMAGES is a folder of image files, an npz, or a folder of samples. Or a config file says which images, by its
section `data`, cropped as for training:

      diffusion-jax make-reference imagenet/train --size=256 --out=reference.npz \\
          --inception=inception.safetensors
      diffusion-jax make-reference --config=folder --config.data.path=images \\
          --config.data.num_classes=7 --out=reference.npz --inception=inception.safetensors

A run that was stopped goes on when the same command is given again."""


def main(argv: Sequence[str]) -> int:
    """Runs the command with its arguments, its name first; returns the exit code.

    Raises:
        UserError: the arguments, the images or the weights are wrong.
        Interrupted: on a signal; what was computed is kept.
    """
    parser = Parser(argv[0], DESCRIPTION)
    parser.add_argument('images', nargs='?', type=file_path, metavar='IMAGES')
    add_arguments(parser)
    parser.add_argument('--config', metavar='NAME|FILE', help='an experiment whose images are meant')
    parser.add_argument('--split', choices=('train', 'test'), help="of the config's images; train by default")
    parser.add_argument(
        '--out', type=file_path, required=True, metavar='FILE.npz', help='is replaced if it exists'
    )
    args, settings = parser.parse_known_args(argv[1:])
    if bool(args.config) == bool(args.images):
        raise UserError('give either IMAGES or --config=NAME|FILE')
    if settings and not args.config:
        raise UserError(f'{" ".join(settings)}: unrecognized; see --help')
    if args.split and not args.config:
        raise UserError(f'--split={args.split} needs --config=FILE, whose images it splits; leave it out')
    images = _configured(args, settings) if args.config else open_images(args.images, args.size)
    side = Side(images.name, images)
    if not args.config:
        check_size_is_used(args.size, [side])
    if not args.inception:
        raise UserError(
            '--inception is missing; a reference has its features (see `diffusion-jax convert-inception '
            '--help`). To compare pixels of small images, give the images to `diffusion-jax evaluate`'
        )
    extractor = make_extractor(args, [side])
    if not args.out.endswith('.npz'):
        raise UserError(f'--out is {args.out!r}; it must end in .npz')
    check_out(args.out, args.images, args.inception)
    with stop_requests() as stop:
        known = look(side, extractor, args.workdir, stop, is_reference=True)
    chosen = known.rows[kept_rows(len(known.rows), REFERENCE_ROWS)]
    print(f'reading {len(chosen):,} of the images for precision and recall')
    rgb = images.take(chosen)
    save_statistics(args.out, known, np.broadcast_to(rgb, (*rgb.shape[:-1], 3)), extractor.name)
    print(f'{shown(args.out)}: statistics of {known.num_images:,} images of {images.name}')
    for reason in known.left_out:
        print(f'left out: {reason}')
    if known.skipped:
        print(f'note: {known.skipped}')
    dimensions = len(known.gaussian.mean)
    if known.num_images <= dimensions:
        print(f'note: {known.num_images:,} images give a singular covariance of {dimensions:,} features')
    for remark in enlarged([side], args.size):
        print(f'note: {remark}')
    return 0


def _configured(args: argparse.Namespace, settings: Sequence[str]) -> ImageSet:
    if args.size:
        raise UserError('--size: the config says the size of its images, as config.data.image_size')
    return open_split(read_experiment(read_config(args.config, settings)).data, args.split or 'train')
