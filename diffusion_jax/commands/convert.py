"""`diffusion-jax convert`: released, foreign or own weights into one file that describes its network."""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from diffusion_jax.checks import one_of
from diffusion_jax.command_line import Parser, read_config
from diffusion_jax.config import read_experiment
from diffusion_jax.errors import UserError
from diffusion_jax.models import Params, UNetConfig
from diffusion_jax.settings import file_path
from diffusion_jax.stored_networks import CLASSIFIER, DIFFUSION, default_average, describe_stored, load_stored
from diffusion_jax.weights.community import COMMUNITY
from diffusion_jax.weights.files import Spec, save_weights
from diffusion_jax.weights.foreign import is_foreign, params_of, read_foreign, recognise
from diffusion_jax.weights.known import MODELS
from diffusion_jax.weights.released import RELEASED
from diffusion_jax.workdir import check_writable

USAGE = """diffusion-jax convert [NAME] SOURCE --out FILE.safetensors
       diffusion-jax convert SOURCE --out FILE.safetensors --config=FILE [--network=classifier]
       diffusion-jax convert FOLDER --out FILE.safetensors [--ema RATE]"""

DESCRIPTION = """\
Converts the weights of one network into one file. The file describes the network, detects damage whenever it
is read, and loads without PyTorch.

SOURCE is
  a .pt file of the authors' release, or of a model of others in their format. NAME is the model; by default
  it is recognized by its arrays. Needs PyTorch: pip install 'diffusion_jax[convert]'
      diffusion-jax convert 256x256_diffusion 256x256_diffusion.pt --out 256x256_diffusion.safetensors
  a .safetensors file of a released model in the layout of diffusers, with its config.json next to it:
      diffusion-jax convert unet/diffusion_pytorch_model.safetensors --out model.safetensors
  a .pt file of another network with the same names of arrays, such as a fork's. A config file, as for
  training, and settings of it give the architecture:
      diffusion-jax convert model.pt --out model.safetensors --config=digits
      diffusion-jax convert model.pt --out model.safetensors --config=digits --network=classifier
  a folder of training:
      diffusion-jax convert runs/digits/diffusion --out digits.safetensors"""


def main(argv: Sequence[str]) -> int:
    """Runs the command, its name first in argv; returns the exit code."""
    args = _parse(argv)
    source, out = Path(args.source), Path(args.out)
    if out.is_dir() or out.resolve() == source.resolve():
        raise UserError('--out', f'{out} is a folder or the source', 'name another file')
    check_writable(out)
    spec, params, what = _read(source, args)
    save_weights(out, spec, params)
    leaves = jax.tree.leaves(params)
    print(f'{source}: {what}; {len(leaves)} arrays, {sum(map(np.size, leaves)):,} parameters')
    print(f'{out}: written, {out.stat().st_size / 1e6:,.1f} MB')
    kind = DIFFUSION if isinstance(spec.network, UNetConfig) else CLASSIFIER
    config = MODELS[spec.name].config if spec.name else 'CONFIG'
    used = f"diffusion_jax.load('{out}')"
    if config:
        run = f'python -m diffusion_jax.main --config={config} --stage=sample'
        used = f'{run} --config.pretrained.{kind}={out}'
    print(f'use it: {used}')
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    models = {'released models': RELEASED, 'models of others': COMMUNITY}
    epilog = '\n'.join(textwrap.fill(f'{what}: {", ".join(names)}', 110) for what, names in models.items())
    parser = Parser(argv[0], DESCRIPTION, usage=USAGE, epilog=epilog)
    add = parser.add_argument
    add('name', nargs='?', metavar='NAME', help='of a published model; see below')
    add('source', type=file_path, metavar='SOURCE', help='a .pt or .safetensors file, or a training')
    add('--out', type=file_path, required=True, metavar='FILE', help='is replaced if it exists')
    add('--config', metavar='NAME|FILE', help='the experiment that describes the network')
    add('--network', choices=(DIFFUSION, CLASSIFIER), help='of the config; diffusion by default')
    ema = 'the average in a folder of training, 0 for none; by default that of the highest rate'
    add('--ema', type=float, metavar='RATE', help=ema)
    args, settings = parser.parse_known_intermixed_args(argv[1:])
    args.settings = settings
    if args.settings and not args.config:
        raise UserError(' '.join(args.settings), 'unrecognized', 'see --help')
    if args.name:
        one_of('NAME', args.name, MODELS)
    is_folder = Path(args.source).is_dir()
    if args.network and not args.config:
        raise UserError('--network', 'needs a config', 'give --config too')
    if args.config and (args.name or is_folder):
        raise UserError('--config', f'{args.name or args.source} gives the network already', 'leave it out')
    if args.name and is_folder:
        raise UserError('NAME', f'{args.source} is a folder, not a released model', 'leave it out')
    if args.ema is not None and not is_folder:
        raise UserError('--ema', f'{args.source} is not a folder of training', 'leave it out')
    return args


def _read(source: Path, args: argparse.Namespace) -> tuple[Spec, Params, str]:
    """The network in a folder of training or in a file of others, and in words which it is."""
    if source.is_dir():
        spec = describe_stored(source)
        rate = default_average(source) if args.ema is None else args.ema
        params, origin = load_stored(source, spec.network, ema_rate=rate)
        return spec, params, origin.removeprefix(', ')
    if source.suffix == '.safetensors' and source.is_file() and not is_foreign(source):
        raise UserError(str(source), 'is converted already')
    file = read_foreign(source)
    spec, what = _from_config(args) if args.config else recognise(file, args.name or '')
    return spec, params_of(file, spec.network, what), what


def _from_config(args: argparse.Namespace) -> tuple[Spec, str]:
    experiment = read_experiment(read_config(args.config, args.settings))
    kind = args.network or DIFFUSION
    network = experiment.networks[kind]
    if network is None:
        raise UserError('--network', f'{args.config} has no {kind}', 'give another config or network')
    size = experiment.data.low_res_size if kind == DIFFUSION else None
    return Spec(network, experiment.diffusion, low_res_size=size), f'the {kind} of {args.config}'
