"""Which of many similar tests are fast ones."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def fast_for(names: Iterable[Any], chosen: Collection[Any]) -> list[Any]:
    """Parameters of a test that is fast for the chosen names and slow for the others."""
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]
