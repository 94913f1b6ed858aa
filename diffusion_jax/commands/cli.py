"""`diffusion-jax NAME …`: every command by its name."""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Callable, Sequence

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
    show_config,
)
from diffusion_jax.compilation_cache import compile_fast_on_gpus, use_compilation_cache
from diffusion_jax.errors import say
from diffusion_jax.exits import exit_code

COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    'run': ('run an experiment: --config=digits --workdir=runs/digits', run.main),
    'configs': ('list the configs, with what to expect of each', configs.main),
    'show-config': ('print every setting of a config with its value and meaning', show_config.main),
    'plan': ('memory and time of an experiment on some devices, before it is run', plan.main),
    'convert': ('released weights (.pt), or a training of yours, into one file for sampling', convert.main),
    'export': ("such a file into a .pt file that the authors' code loads", export.main),
    'convert-inception': (
        "Inception's released weights into one file for evaluation",
        convert_inception.main,
    ),
    'images': ('samples as PNG files', images.main),
    'evaluate': ('FID, sFID, Inception score, precision, recall and KID of samples', evaluate.main),
    'make-reference': ('what samples are compared with, of any images', make_reference.main),
}


USAGE = 'usage: diffusion-jax NAME …; `diffusion-jax NAME --help` explains one, --version prints the version'


def main() -> int:
    """Calls the command that the first argument names; returns the exit code."""
    return exit_code(functools.partial(_main, sys.argv[1:]))


def _main(arguments: Sequence[str]) -> int:
    name, *rest = arguments or ['--help']
    if name in ('-h', '--help'):
        print(_usage())
        return 0
    if name == '--version':
        print(f'diffusion_jax {__version__}')
        return 0
    if name not in COMMANDS:
        meant = difflib.get_close_matches(name.replace('_', '-'), COMMANDS, 1)
        hint = f'; did you mean {meant[0]}?' if meant else ''
        say(f'error: {name}: no such command{hint}\n{_usage()}')
        return 2
    run.set_up_logging()
    use_compilation_cache()
    compile_fast_on_gpus()
    return COMMANDS[name][1]([f'diffusion-jax {name}', *rest])


def _usage() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f'  {name:<{width}}{text}' for name, (text, _) in COMMANDS.items()]
    return '\n'.join([USAGE, *lines])
