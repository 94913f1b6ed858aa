"""What tests ask of errors: the setting or file that is named, and the values, never the prose."""

import contextlib
from collections.abc import Iterator

import pytest

from diffusion_jax.errors import UserError


@contextlib.contextmanager
def refused(where: str, *values: object, kind: type[UserError] = UserError) -> Iterator[None]:
    """The block raises a UserError about what ends with `where`, whose problem or remedy name the values."""
    with pytest.raises(kind) as caught:
        yield
    error = caught.value
    assert error.where.endswith(where), error
    for value in values:
        assert str(value) in f'{error.problem}; {error.remedy}', error
