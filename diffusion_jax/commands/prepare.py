"""`diffusion-jax prepare`: any images once, cropped, as files that training reads without decoding."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from diffusion_jax.checks import between
from diffusion_jax.command_line import Parser
from diffusion_jax.commands.image_sets import read_size
from diffusion_jax.data.config import LABELS, DataConfig
from diffusion_jax.data.preparing import Job, check_no_others, plan, prepare
from diffusion_jax.data.sources import open_source
from diffusion_jax.data.sources.files import shown
from diffusion_jax.data.sources.kinds import resolve
from diffusion_jax.data.sources.prepared import MANIFEST_FILE, is_prepared
from diffusion_jax.errors import UserError
from diffusion_jax.images import Size
from diffusion_jax.interruption import stop_requests
from diffusion_jax.settings import file_path

FULL = 'full'
DEFAULTS = DataConfig('auto')
DESCRIPTION = f"""\
Reads images once, crops them to the centre as training does, and writes their pixels to DIR/<split>. Training
reads these many times faster than JPEG files and gets the same batches:

      diffusion-jax prepare images --out prepared --size=64
      python -m diffusion_jax.main --config=folder --config.data.path=prepared \\
          --config.train_classifier.random_crop=False

An image takes height × width × channels bytes. --size={FULL} keeps the size of every image, as random crops
need it. SOURCE is what config.data.path is. A stopped command resumes when it is given again. {MANIFEST_FILE}
in DIR/<split> lists the classes, the files with their SHA-256, and the images that were skipped."""


def main(argv: Sequence[str]) -> int:
    """Runs the command, its name first in argv; returns the exit code.

    Raises:
        UserError: the arguments or the images are wrong, the folder holds something else, the disk is full.
        Interrupted: on a signal; complete shards are kept.
    """
    args = _parser(argv[0]).parse_args(argv[1:])
    between('--threads', args.threads, 1)
    between('--max-skipped', args.max_skipped, 0)
    if not (args.source or args.tfds_name):
        raise UserError('SOURCE', 'is empty', 'name a folder of images, an archive, a table or a data set')
    splits = [split.strip() for split in args.split.split(',')]
    # Other files next to the splits would be read as another kind of data.
    ours = {Path(split).parts[0] for split in splits if split}
    check_no_others(Path(args.out), lambda path: not ours or path.name in ours or is_prepared(path))
    max_skipped = args.max_skipped if args.on_error == 'skip' else 0
    config = DataConfig(
        DEFAULTS.name,
        path=args.source,
        tfds_name=args.tfds_name,
        train_split=splits[0],
        labels=args.labels,
        image_channels=args.channels,
    )
    with stop_requests() as stop:
        for split in splits:
            of_split = resolve(dataclasses.replace(config, test_split=split))
            source = open_source(of_split, 'train' if split == splits[0] else 'test')
            if source.skipped:
                print(source.skipped)
            job = Job(source, Path(args.out, split), max_skipped, args.threads, stop)
            manifest = prepare(job, plan(source, args.source, split, args.size, args.channels))
            print(f'{shown(job.folder)}: {manifest.num_images:,} images in {manifest.num_shards:,} files')
            for skipped in manifest.skipped:
                print(f'left out: {skipped.image}: {skipped.problem}')
    return 0


def _parser(name: str) -> Parser:
    parser = Parser(name, DESCRIPTION)
    add = parser.add_argument
    add('source', type=file_path, metavar='SOURCE')
    add('--out', type=file_path, required=True, metavar='DIR', help='a folder that is new or was prepared')
    add('--size', type=_size, required=True, metavar=f'N or HxW or {FULL}', help='height and width')
    add('--channels', type=int, choices=(1, 3), default=3, help='1, grey, or 3, RGB')
    help = 'what gives the class of an image: see config.data.labels'
    add('--labels', choices=LABELS, default=DEFAULTS.labels, help=help)
    help = "sub-folders of SOURCE, separated by commas; '' for SOURCE itself. The first has all classes"
    add('--split', default=DEFAULTS.train_split, metavar='SPLITS', help=help)
    add('--tfds-name', default='', metavar='NAME', help='a TensorFlow data set, whose data_dir is SOURCE')
    help = "'skip' leaves unreadable images out"
    add('--on-error', choices=('stop', 'skip'), default=DEFAULTS.on_error, help=help)
    add('--max-skipped', type=int, default=DEFAULTS.max_skipped, metavar='N', help='the most to leave out')
    add('--threads', type=int, default=os.cpu_count() or 1, metavar='N', help='by default one a core')
    return parser


def _size(text: str) -> Size | None:
    return None if text == FULL else read_size(text)
