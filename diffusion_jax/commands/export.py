"""`diffusion-jax export`: one of our files of weights as a .pt file that the authors' code loads."""

from collections.abc import Sequence

from diffusion_jax.command_line import Parser
from diffusion_jax.errors import UserError
from diffusion_jax.settings import file_path
from diffusion_jax.weights.files import load_weights
from diffusion_jax.weights.reference import to_reference
from diffusion_jax.weights.torch_files import write_state
from diffusion_jax.workdir import check_writable

DESCRIPTION = """\
Writes the weights of one network as a .pt file with the names and layouts of the authors' release, the exact
inverse of `diffusion-jax convert`: their `load_state_dict` takes it. Needs PyTorch:
  pip install 'diffusion_jax[convert]'

      diffusion-jax convert runs/digits/diffusion --out digits.safetensors
      diffusion-jax export digits.safetensors --out digits.pt"""


def main(argv: Sequence[str]) -> int:
    """Runs the command, its name first in argv; returns the exit code."""
    parser = Parser(argv[0], DESCRIPTION)
    add = parser.add_argument
    add('source', type=file_path, metavar='SOURCE', help='a file that `diffusion-jax convert` wrote')
    add('--out', type=file_path, required=True, metavar='FILE.pt', help='is replaced if it exists')
    args = parser.parse_args(argv[1:])
    check_writable(args.out)
    spec, params = load_weights(args.source)
    if spec.network.rescale_residual:
        raise UserError(args.source, "rescales residual connections, which the authors' code cannot")
    if spec.network.norm_groups != 32:
        problem = f'has norm_groups {spec.network.norm_groups}'
        raise UserError(args.source, problem, "the authors' code has 32: train with norm_groups=32 to export")
    state = to_reference(spec.network, params)
    write_state(args.out, state)
    print(f'{args.out}: {len(state)} arrays of {spec.name or args.source}')
    print(f'process: {", ".join(f"{name} {value}" for name, value in spec.process.items())}')
    return 0
