"""`diffusion-jax convert`: released, foreign or own weights into one file that says what network it is."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from diffusion_jax.checks import one_of
from diffusion_jax.command_line import read_config
from diffusion_jax.commands.parser import Parser
from diffusion_jax.config import read_experiment
from diffusion_jax.errors import UserError
from diffusion_jax.models import UNetConfig
from diffusion_jax.settings import file_path
from diffusion_jax.stored_networks import CLASSIFIER, DIFFUSION, default_average, describe_stored, load_stored
from diffusion_jax.weights.files import Weights, save_weights
from diffusion_jax.weights.reference import from_reference
from diffusion_jax.weights.released import RELEASED, released_classes, resembling
from diffusion_jax.weights.torch_files import read_state
from diffusion_jax.workdir import check_writable

USAGE = """diffusion-jax convert [NAME] SOURCE --out FILE.safetensors
       diffusion-jax convert SOURCE --out FILE.safetensors --config=FILE [--network=classifier]
       diffusion-jax convert FOLDER --out FILE.safetensors [--ema RATE]"""

DESCRIPTION = """\
Converts the weights of one network into one file. The file says which network it is, is checked whenever it
is read, and loads without PyTorch.

SOURCE is
  a .pt file of the authors' release. NAME says which; without it the file's arrays do. Needs PyTorch:
  pip install 'diffusion_jax[convert]'
      diffusion-jax convert 256x256_diffusion 256x256_diffusion.pt --out 256x256_diffusion.safetensors
  a .pt file of another network with the same names of arrays, such as a fork's. A config file, as training
  takes it, with settings of it if need be, says which architecture it has:
      diffusion-jax convert model.pt --out model.safetensors --config=digits
      diffusion-jax convert model.pt --out model.safetensors --config=digits --network=classifier
  a folder of training:
      diffusion-jax convert runs/digits/diffusion --out digits.safetensors"""

# The config of the experiment that a released model is of.
EXPERIMENTS = {
    '64x64_diffusion': 'imagenet64',
    '128x128_diffusion': 'imagenet128',
    '256x256_diffusion': 'imagenet256',
    '256x256_diffusion_uncond': 'imagenet256_uncond',
    '512x512_diffusion': 'imagenet512',
    '64_256_upsampler': 'upsample_64_256',
    '128_512_upsampler': 'upsample_128_512',
    'lsun_bedroom': 'lsun_bedroom',
    'lsun_cat': 'lsun_cat',
    'lsun_horse': 'lsun_horse',
    'lsun_horse_nodropout': 'lsun_horse',
    '64x64_classifier': 'imagenet64',
    '128x128_classifier': 'imagenet128',
    '256x256_classifier': 'imagenet256',
    '512x512_classifier': 'imagenet512',
}


def main(argv: Sequence[str]) -> int:
    """Runs the command with its arguments, its name first; returns the exit code.

    Raises:
        UserError: the arguments or the source are wrong.
    """
    args = _parse(argv)
    source = Path(args.source)
    if Path(args.out).is_dir() or Path(args.out).resolve() == source.resolve():
        raise UserError(f'{args.out}: is the source or a folder; name another file with --out')
    check_writable(args.out)
    weights, what = _from_training(source, args.ema) if source.is_dir() else _from_torch(source, args)
    save_weights(args.out, weights)
    leaves = jax.tree.leaves(weights.params)
    print(f'{source}: {what}; {len(leaves)} arrays, {sum(map(np.size, leaves)):,} parameters')
    print(f'{args.out}: written, {Path(args.out).stat().st_size / 1e6:,.1f} MB')
    kind = DIFFUSION if isinstance(weights.network, UNetConfig) else CLASSIFIER
    config = EXPERIMENTS[weights.name] if weights.name else 'CONFIG'
    print(
        f'use it: python -m diffusion_jax.main --config={config} --stage=sample '
        f'--config.pretrained.{kind}={args.out}'
    )
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    epilog = textwrap.fill('released models: ' + ', '.join(RELEASED), 110)
    parser = Parser(argv[0], DESCRIPTION, usage=USAGE, epilog=epilog)
    parser.add_argument('name', nargs='?', metavar='NAME', help='of a released model; see below')
    parser.add_argument('source', type=file_path, metavar='SOURCE', help='a .pt file or a folder of training')
    parser.add_argument(
        '--out', type=file_path, required=True, metavar='FILE', help='is replaced if it exists'
    )
    parser.add_argument('--config', metavar='NAME|FILE', help='the experiment that the network is of')
    parser.add_argument(
        '--network', choices=(DIFFUSION, CLASSIFIER), help='which of the config; diffusion by default'
    )
    parser.add_argument(
        '--ema',
        type=float,
        metavar='RATE',
        help='the average in a folder of training, 0 for none; by default that of the highest rate',
    )
    args, args.settings = parser.parse_known_intermixed_args(argv[1:])
    if args.settings and not args.config:
        raise UserError(f'{" ".join(args.settings)}: unrecognized; see --help')
    if args.name:
        one_of('NAME', args.name, RELEASED)
    if args.network and not args.config:
        raise UserError('--network says which network of a config; give --config too')
    if args.name and args.config:
        raise UserError(f'{args.name} and --config both say what the network is; give one of them')
    if Path(args.source).is_dir() and (args.name or args.config):
        raise UserError(
            f'{args.source}: a folder of training says what its network is; give no NAME or --config'
        )
    if args.ema is not None and not Path(args.source).is_dir():
        raise UserError(f'{args.source}: has no averages; --ema is for folders of training')
    return args


def _from_training(folder: Path, ema_rate: float | None) -> tuple[Weights, str]:
    """The weights in a folder of training, and in words which they are."""
    stored = describe_stored(folder)
    rate = default_average(folder) if ema_rate is None else ema_rate
    params, origin = load_stored(folder, stored.network, ema_rate=rate)
    return stored._replace(params=params), origin.removeprefix(', ')


def _from_torch(source: Path, args: argparse.Namespace) -> tuple[Weights, str]:
    """The weights in a .pt file, and in words which they are."""
    if source.suffix == '.safetensors':
        raise UserError(f'{source}: is converted already')
    state = read_state(source)
    shapes = {key: array.shape for key, array in state.items()}
    if args.config:
        expected, what = _configured(args)
    elif args.name:
        expected, what = _released(args.name), args.name
    else:
        expected, what = _recognised(source, shapes)
    try:
        return expected._replace(params=from_reference(expected.network, state)), what
    except UserError as error:
        raise UserError(
            f'{source}: is not {what}: {error}; {resembling(shapes)}; '
            'give the right name, the config of its network, or the whole file'
        ) from error


def _released(name: str) -> Weights:
    """What a released file must hold, without parameters."""
    model = RELEASED[name]
    return Weights(model.network, {}, model.diffusion, name, released_classes(name))


def _configured(args: argparse.Namespace) -> tuple[Weights, str]:
    """What a file must hold to be of an experiment's network, without parameters; and that in words."""
    experiment = read_experiment(read_config(args.config, args.settings))
    kind = args.network or DIFFUSION
    network = {DIFFUSION: experiment.unet, CLASSIFIER: experiment.classifier}[kind]
    if network is None:
        raise UserError(f'{args.config}: has no {kind}; give another config or --network')
    return Weights(network, {}, experiment.diffusion), f'the {kind} of {args.config}'


def _recognised(source: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Weights, str]:
    """The released model that a file is of, or is nearest to, without parameters; and that in words.

    Of models that share an architecture it is the one that the file is called after.
    """
    names = resembling(shapes).names
    if not names:
        key, shape = next(iter(shapes.items()))
        raise UserError(
            f'{source}: resembles no released model (its first array is {key} {shape}); '
            'give the config of its network with --config'
        )
    called = source.stem if source.stem in names else ''
    name = names[0] if len(names) == 1 else called
    unknown = f'{" or ".join(names)} (with NAME before it, the file also keeps its scale and steps)'
    return _released(names[0])._replace(name=name), name or unknown
