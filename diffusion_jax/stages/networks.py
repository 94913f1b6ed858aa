"""Where the networks of a run are stored, and which of their parameters sampling uses."""

from __future__ import annotations

import dataclasses
import json
import logging
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from diffusion_jax.errors import UserError
from diffusion_jax.experiment import Experiment, Pretrained, with_slowest_average
from diffusion_jax.memory import out_of_memory
from diffusion_jax.models import Params
from diffusion_jax.settings import file_path
from diffusion_jax.stages.run import Run
from diffusion_jax.stored_networks import (
    CHECKPOINTS,
    CLASSIFIER,
    DIFFUSION,
    Network,
    check_stored,
    is_file,
    load_stored,
)
from diffusion_jax.training.checkpoints import latest_step
from diffusion_jax.weights.files import read_spec
from diffusion_jax.workdir import read_stamp

logger = logging.getLogger(__name__)

STAGES = {DIFFUSION: 'train', CLASSIFIER: 'train_classifier'}


def network_path(run: Run, name: str) -> Path:
    """Where a network of a run is stored; see `find_network`."""
    return find_network(run.workdir, name, run.experiment.pretrained)


def find_network(workdir: Path, name: str, given: Pretrained) -> Path:
    """Where a network is stored: in the working directory's own folder, or where the config says.

    A network that was fine-tuned here comes before the pretrained one that it was started from.
    """
    own, pretrained = workdir / name, getattr(given, name)
    stamp = read_stamp(own)
    # Older stamps hold the path as it was typed, such as runs/digits/diffusion/.
    tuned = stamp is not None and file_path(stamp.get('pretrained', '')) == start_stamp(pretrained)
    return own if not pretrained or tuned else Path(pretrained)


def with_average(run: Run, stages: Collection[str]) -> Run:
    """The run with a number as config.sample.ema_rate, where the config leaves it to the network's training.

    Args:
        stages: those that will run; with the one that trains the diffusion model its averages are meant.
    """
    experiment = run.experiment
    if experiment.sample.ema_rate is not None:
        return run
    own = run.workdir / DIFFUSION
    path = own if STAGES[DIFFUSION] in stages else network_path(run, DIFFUSION)
    stamp = read_stamp(path) if path != own else None
    rates = stamp['train']['ema_rates'] if stamp and 'train' in stamp else experiment.train.ema_rates
    return dataclasses.replace(run, experiment=with_slowest_average(experiment, rates))


def network_stamp(run: Run, name: str) -> dict[str, Any]:
    """Which parameters a result rests on: the digest of a file, or a folder of training, its settings and the
    step. A file may be moved."""
    path = network_path(run, name)
    if is_file(path):
        header = read_spec(path)
        return {'weights': header.name, 'digest': header.digest}
    step = latest_step(path / CHECKPOINTS)
    if step is None:
        raise _missing(path, name)
    inside = path.is_relative_to(run.workdir)
    settings = zlib.crc32(json.dumps(read_stamp(path), sort_keys=True).encode())
    folder = str(path.relative_to(run.workdir) if inside else path)
    return {'folder': folder, 'settings': f'{settings:08x}', 'step': step}


def start_stamp(pretrained: str) -> str:
    """Which parameters a training starts from; '' are new ones."""
    if not pretrained:
        return ''
    path = Path(pretrained)
    return f'weights {read_spec(path).digest}' if is_file(path) else str(path)


def load_network(run: Run, name: str) -> Params:
    """Parameters of the average that sampling uses, as training has them on the mesh."""
    path = network_path(run, name)
    network, ema_rate = _wanted(run.experiment, name)
    with out_of_memory(f'loading {path}', 'free memory of the devices, or use larger ones'):
        params, origin = load_stored(path, network, run.mesh, ema_rate)
    logger.info('%s: parameters of %s%s', name, path, origin)
    return params


def check_network(run: Run, name: str) -> None:
    """UserError where sampling could not load what training does not make."""
    path = network_path(run, name)
    if not is_file(path) and latest_step(path / CHECKPOINTS) is None:
        raise _missing(path, name)
    network, ema_rate = _wanted(run.experiment, name)
    check_stored(path, network, run.experiment.diffusion, ema_rate)


def _missing(path: Path, name: str) -> UserError:
    unguided = '; or sample unguided, config.sample.scale=0' if name == CLASSIFIER else ''
    return UserError(
        f'{path / CHECKPOINTS}: no checkpoint of the {name}; set config.pretrained.{name} to a file of '
        f'weights or a folder such as runs/digits/{name}, or run the stage {STAGES[name]} first{unguided}'
    )


def _wanted(experiment: Experiment, name: str) -> tuple[Network, float]:
    """A network's architecture, and the rate of the average that sampling uses."""
    return {
        DIFFUSION: (experiment.unet, experiment.sample.ema_rate),
        CLASSIFIER: (experiment.classifier, experiment.sample.classifier_ema_rate),
    }[name]
