"""Grids by name, stored beside the weights of the model that they were chosen for.

In a folder of training they are in `respacings.json`, beside a file of weights in `<name>.respacings.json`.
"""

import re
from pathlib import Path

from diffusion_jax.errors import UserError
from diffusion_jax.generation.options import check_respacing
from diffusion_jax.stored_networks import DIFFUSION, describe_stored, is_file, stored_path
from diffusion_jax.workdir import check_writable, read_json, write_json

NAME = re.compile(r'(?!ddim\d)[A-Za-z][\w-]*')  # none that a grid has itself
FILE = 'respacings.json'


def save_grid(path: str | Path, name: str, respacing: str) -> None:
    """Stores a grid under a name: `respacing=name` then means this grid for this model.

    A grid that had the name is replaced.

    Args:
        path: of the diffusion model, as for `load`.
        respacing: such as `choose_grid` returns.

    Raises:
        UserError: the name or the grid is not valid, or there is no model or no permission to write.
    """
    path = stored_path(path, DIFFUSION)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        remedy = 'must be a letter, then letters, digits, - or _, but no grid such as ddim25'
        raise UserError('name', f'got {name!r}', remedy)
    check_respacing(describe_stored(path).diffusion, respacing)
    check_writable(_file(path))
    write_json(_file(path), stored_grids(path) | {name: respacing})


def stored_grids(path: Path) -> dict[str, str]:
    """The stored grids of the diffusion model in a file of weights or a folder of training."""
    if not _file(path).exists():
        return {}
    grids = read_json(_file(path), 'restore or remove it')
    return {name: str(respacing) for name, respacing in grids.items()}


def _file(path: Path) -> Path:
    return path.with_suffix(f'.{FILE}') if is_file(path) else path / FILE
