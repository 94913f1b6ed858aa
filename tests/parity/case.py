"""A recorded case: numbers that the authors' PyTorch code produced, and the settings that produced them."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """`<name>.json` (settings, `meta`) and `<name>.npz` (`arrays`, torch layouts) of one folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @functools.cached_property
    def arrays(self) -> Mapping[str, np.ndarray]:
        with np.load(self.path.with_suffix('.npz')) as file:
            return dict(file)

    def sibling(self, name: str) -> 'Case':
        """Another case of the same folder, by name with or without a suffix."""
        return Case(self.path.with_name(Path(name).stem + '.json'))


@dataclass(frozen=True)
class Check:
    """How to check the cases that `recognize` accepts by their content, never by their name.

    family: what the cases are of, in the table of errors.
    """

    family: str
    recognize: Callable[[Case], bool]
    run: Callable[[Case], None]
    slow: Callable[[Case], bool] = lambda case: False
