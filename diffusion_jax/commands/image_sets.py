"""What the commands that read images share: their arguments, and where features and results go."""

import argparse
import zlib
from pathlib import Path

from diffusion_jax.data.image_sets.source import SourceImages
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.config import RESIZES, EvaluateConfig, check_evaluate
from diffusion_jax.evaluation.eval_set import EvalSet
from diffusion_jax.images import Size
from diffusion_jax.settings import file_path
from diffusion_jax.workdir import check_writable

LARGEST_SIZE = 8192


def add_arguments(parser: argparse.ArgumentParser, *, inception_required: bool = False) -> None:
    """Adds the arguments that these commands share."""
    add, defaults, required = parser.add_argument, EvaluateConfig(), inception_required
    help = 'weights, see `diffusion-jax convert-inception --help`'
    add('--inception', type=file_path, default='', required=required, metavar='FILE', help=help)
    add('--size', type=read_size, metavar='N or HxW', help='centre-crops image files to this size')
    help = "to 299×299 pixels; the first is the paper's"
    add('--resize', choices=RESIZES, default=defaults.resize, help=help)
    add('--batch-size', type=int, default=defaults.batch_size, metavar='N', help='over all devices')
    folder, default = lambda text: Path(file_path(text)), Path('runs/evaluation')
    help = f'for features, 16 KB an image, which are computed once; by default {default}'
    add('--workdir', type=folder, default=default, metavar='FOLDER', help=help)


def read_config(args: argparse.Namespace) -> EvaluateConfig:
    """The arguments as settings. Raises UserError for a value that cannot work."""
    settings = ('inception', 'resize', 'batch_size', 'bootstrap')
    config = EvaluateConfig(**{name: getattr(args, name) for name in settings if name in args})
    try:
        check_evaluate(config)
    except UserError as error:
        raise UserError(f'--{error.where.replace("_", "-")}', error.problem, error.remedy) from error
    return config


def with_directory(eval_set: EvalSet, workdir: Path) -> EvalSet:
    """The set with a folder for its features, named after it."""
    digest = zlib.crc32(str(Path(eval_set.name).absolute()).encode())
    return eval_set._replace(directory=workdir / 'features' / f'{stem(eval_set.name)}-{digest:08x}')


def stem(path: str) -> str:
    """A name for a set: that of the file, or of the folder and its parent."""
    resolved = Path(path).absolute()
    return f'{resolved.parent.name}_{resolved.name}' if resolved.is_dir() else resolved.stem


def check_out(out: str | Path, *inputs: str | None) -> Path:
    """The path of a result. Raises UserError if it cannot be written, or would replace an input."""
    if any(Path(out).resolve() == Path(given).resolve() for given in inputs if given):
        raise UserError(f'{out}', 'is also an input', 'choose another file with --out')
    check_writable(out)
    return Path(out)


def read_size(text: str) -> Size:
    """'256' or '256x384', height first."""
    sides = text.lower().replace('×', 'x').split('x')
    if len(sides) > 2 or not all(side.isdecimal() and 0 < int(side) <= LARGEST_SIZE for side in sides):
        remedy = f'give 256, or 256x384 (height first); at most {LARGEST_SIZE}'
        raise UserError('--size', f'got {text!r}', remedy)
    return int(sides[0]), int(sides[-1])


def check_size_is_used(size: Size | None, *sets: EvalSet) -> None:
    """Raises UserError if a size is given and there are no image files to crop."""
    if size is not None and not any(isinstance(one.images, SourceImages) for one in sets):
        raise UserError('--size', 'crops image files, but there is no folder of them', 'omit it')
