"""`diffusion-jax NAME …`: every command by its name."""

import difflib
import functools
import sys
from collections.abc import Sequence
from types import ModuleType

from diffusion_jax import __version__
from diffusion_jax import main as run
from diffusion_jax.commands import (
    configs,
    convert,
    convert_inception,
    evaluate,
    export,
    images,
    make_reference,
    plan,
    prepare,
    show_config,
)
from diffusion_jax.errors import UserError
from diffusion_jax.exits import exit_code

MODULES = (
    configs, show_config, plan, prepare, convert, export, convert_inception, images, evaluate, make_reference
)  # fmt: skip
COMMANDS: dict[str, ModuleType] = {'run': run} | {
    module.__name__.rpartition('.')[2].replace('_', '-'): module for module in MODULES
}
USAGE = 'usage: diffusion-jax NAME …; `diffusion-jax NAME --help` explains one, --version prints the version'


def main() -> int:
    """Calls the command that the first argument names; returns the exit code."""
    return exit_code(functools.partial(_main, sys.argv[1:]))


def _main(arguments: Sequence[str]) -> int:
    name, *rest = arguments or ['--help']
    if name in ('-h', '--help'):
        width = max(map(len, COMMANDS)) + 2
        print(USAGE, *(f'  {name:<{width}}{_summary(module)}' for name, module in COMMANDS.items()), sep='\n')
        return 0
    if name == '--version':
        print(f'diffusion_jax {__version__}')
        return 0
    if name not in COMMANDS:
        meant = difflib.get_close_matches(name.replace('_', '-'), COMMANDS, 1)
        remedy = f'did you mean {meant[0]}?' if meant else 'see --help'
        raise UserError(name, 'no such command', remedy)
    run.set_up()
    return COMMANDS[name].main([f'diffusion-jax {name}', *rest])


def _summary(module: ModuleType) -> str:
    """The first line of the docstring, after the command's name."""
    return (module.__doc__ or '').partition('\n')[0].partition('`: ')[2].removesuffix('.')
