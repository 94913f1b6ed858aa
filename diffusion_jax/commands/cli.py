"""`diffusion-jax NAME …`: every command by its name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from diffusion_jax import main as run

COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    'run': ('run an experiment: --config=configs/digits.py --workdir=runs/digits', run.main),
}


def main() -> int:
    """Calls the command that the first argument names; returns the exit code."""
    name, *rest = sys.argv[1:] or ['--help']
    if name not in COMMANDS:
        lines = [f'  {name:<10}{text}' for name, (text, _) in COMMANDS.items()]
        print('usage: diffusion-jax NAME …\n' + '\n'.join(lines), file=sys.stderr)
        return 0 if name in ('-h', '--help') else 2
    return COMMANDS[name][1]([f'diffusion-jax {name}', *rest])
