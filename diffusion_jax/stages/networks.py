"""Where the networks of a run are, and their parameters.

A network is stored in a folder of training, such as runs/digits/diffusion, or in a file of weights that
`diffusion-jax convert` wrote.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from diffusion_jax.config import Experiment, with_slowest_average
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.errors import UserError
from diffusion_jax.memory import out_of_memory
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig, describe_network, differences
from diffusion_jax.settings import read_section
from diffusion_jax.sharding import param_shardings
from diffusion_jax.stages.run import Run
from diffusion_jax.training.checkpoints import check_checkpoint, latest_step, load_params, read_network
from diffusion_jax.weights.files import Weights, load_weights, read_header
from diffusion_jax.workdir import STAMP_FILE, read_stamp

logger = logging.getLogger(__name__)

Network = UNetConfig | ClassifierConfig

DIFFUSION, CLASSIFIER = 'diffusion', 'classifier'
CHECKPOINTS = 'checkpoints'
STAGES = {DIFFUSION: 'train', CLASSIFIER: 'train_classifier'}
TRAINED_BY = {UNetConfig: STAGES[DIFFUSION], ClassifierConfig: STAGES[CLASSIFIER]}
KINDS = {UNetConfig: 'a diffusion model', ClassifierConfig: 'a classifier'}


def network_path(run: Run, name: str) -> Path:
    """Where a network is stored: in the workdir's own folder, or where the config says.

    A network that was fine-tuned here comes before the pretrained one that it was started from.
    """
    own, pretrained = run.workdir / name, getattr(run.experiment.pretrained, name)
    stamp = read_stamp(own)
    tuned = stamp is not None and stamp.get('pretrained') == start_stamp(pretrained)
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
    return run._replace(experiment=with_slowest_average(experiment, rates))


def network_stamp(run: Run, name: str) -> dict[str, Any]:
    """Which parameters a result rests on: the digest of a file, or a folder of training, its settings and the
    step. A file may be moved."""
    path = network_path(run, name)
    if _is_file(path):
        header = read_header(path)
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
    path = Path(pretrained)
    return f'weights {read_header(path).digest}' if pretrained and _is_file(path) else pretrained


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
    if not _is_file(path) and latest_step(path / CHECKPOINTS) is None:
        raise _missing(path, name)
    network, ema_rate = _wanted(run.experiment, name)
    check_stored(path, network, run.experiment.diffusion, ema_rate)


def describe_stored(path: Path) -> Weights:
    """The network whose parameters are stored there and its process, without the parameters.

    Raises:
        UserError: nothing of that kind is stored there.
    """
    if _is_file(path):
        return read_header(path)
    network, stamp = read_network(path / CHECKPOINTS), read_stamp(path)
    if stamp is None:
        raise UserError(f'{path}: has no {STAMP_FILE}; give a whole folder of training')
    return Weights(network, {}, read_section(DiffusionConfig, stamp.get('diffusion'), f'{path}/{STAMP_FILE}'))


def check_stored(path: Path, network: Network, process: DiffusionConfig, ema_rate: float = 0.0) -> None:
    """UserError unless the parameters stored there are those of a network that knows the process.

    ema_rate: the average in a folder of training, 0 for the parameters themselves; a file has one set only.
    """
    stored, wanted = describe_stored(path), Weights(network, {}, process)
    if type(stored.network) is not type(network):
        its, wanted_kind = KINDS[type(stored.network)], KINDS[type(network)]
        raise UserError(f'{path}: holds {its}, not {wanted_kind}; give another file or folder')
    wrong = differences(describe_network(stored.network), describe_network(network))
    wrong += differences(stored.process, wanted.process)
    if wrong:
        hint = ''
        if len(wrong) == 1 and wrong[0].startswith('num_classes') and network.num_classes:
            hint = (
                f'; train one for {network.num_classes} classes first: --stage={TRAINED_BY[type(network)]} '
                '(it starts from this one)'
            )
        raise UserError(f'{path}: of another network: {"; ".join(wrong)}{hint}')
    if not _is_file(path):
        check_checkpoint(path / CHECKPOINTS, network, ema_rate)


def load_stored(path: Path, network: Network, mesh: Mesh, ema_rate: float = 0.0) -> tuple[Params, str]:
    """The parameters that `check_stored` checks, and in words which of those stored there they are."""
    if _is_file(path):
        params = load_weights(path).params
        return jax.device_put(params, param_shardings(mesh, params)), ''
    params, step = load_params(path / CHECKPOINTS, network, ema_rate, mesh)
    return params, f', step {step}'


def _missing(path: Path, name: str) -> UserError:
    unguided = '; or sample unguided, config.sample.scale=0' if name == CLASSIFIER else ''
    return UserError(
        f'{path / CHECKPOINTS}: no checkpoint of the {name}; set config.pretrained.{name} to a file of '
        f'weights or a folder such as runs/digits/{name}, or run the stage {STAGES[name]} first{unguided}'
    )


def _is_file(path: Path) -> bool:
    return path.suffix == '.safetensors' or path.is_file()


def _wanted(experiment: Experiment, name: str) -> tuple[Network, float]:
    """A network's architecture, and the rate of the average that sampling uses."""
    return {
        DIFFUSION: (experiment.unet, experiment.sample.ema_rate),
        CLASSIFIER: (experiment.classifier, experiment.sample.classifier_ema_rate),
    }[name]
