"""What every stage is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from diffusion_jax.config import Experiment


class Run(NamedTuple):
    """An experiment in its working directory, on the devices of a mesh.

    `stop` says whether the user or the machine has asked to leave.
    """

    experiment: Experiment
    workdir: Path
    mesh: jax.sharding.Mesh
    stop: Callable[[], bool]
