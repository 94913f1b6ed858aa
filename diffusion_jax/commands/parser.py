"""The parser of a command's arguments."""

from __future__ import annotations

import argparse
from typing import NoReturn

from diffusion_jax.errors import UserError


class Parser(argparse.ArgumentParser):
    """Prints its description as it is; what is wrong with the arguments is a UserError, so one line."""

    def __init__(self, prog: str, description: str, **options: str) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, formatter_class=formatter, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message}; see --help')
