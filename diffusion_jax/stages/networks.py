"""Where the networks of a run are stored, and which of their parameters sampling uses."""

import dataclasses
import json
import logging
import zlib
from pathlib import Path
from typing import Any

from diffusion_jax.checks import given_by
from diffusion_jax.data.classes import check_same_classes, listed
from diffusion_jax.data.sources import class_names
from diffusion_jax.errors import UserError
from diffusion_jax.experiment import Pretrained
from diffusion_jax.generation.loading import check_weak
from diffusion_jax.generation.networks import WEAK
from diffusion_jax.memory import out_of_memory
from diffusion_jax.models import Params
from diffusion_jax.settings import file_path
from diffusion_jax.stages.run import Run
from diffusion_jax.stored_networks import (
    CHECKPOINTS,
    CLASSIFIER,
    DIFFUSION,
    TRAINED_BY,
    check_stored,
    default_average,
    describe_stored,
    is_file,
    load_stored,
    stored_classes,
    stored_path,
)
from diffusion_jax.training.checkpoints import latest_step
from diffusion_jax.weights.files import Spec
from diffusion_jax.workdir import read_stamp

logger = logging.getLogger(__name__)


def network_path(run: Run, name: str) -> Path:
    """Where a network of a run is stored; see `find_network`."""
    if name == WEAK:
        return stored_path(run.experiment.sample.weak, DIFFUSION)
    return find_network(run.workdir, name, run.experiment.pretrained)


def find_network(workdir: Path, name: str, given: Pretrained) -> Path:
    """Where a network is stored: in its folder of the working directory, or where the config says.

    A network that was fine-tuned here takes precedence over the pretrained one that it was started from.
    """
    own, pretrained = workdir / name, getattr(given, name)
    stamp = read_stamp(own)
    # Older stamps hold the path as it was typed, such as runs/digits/diffusion/.
    tuned = stamp is not None and file_path(stamp.get('pretrained', '')) == start_stamp(pretrained)
    return own if not pretrained or tuned else Path(pretrained)


def average_of(run: Run, name: str) -> float:
    """The rate of the average that sampling uses of a network."""
    if name == WEAK:
        return default_average(network_path(run, name))
    sample = run.experiment.sample
    rate = sample.ema_rate if name == DIFFUSION else sample.classifier_ema_rate
    if rate is not None:
        return rate
    path, rates = network_path(run, name), run.experiment.train.ema_rates
    if TRAINED_BY[name] not in run.stages and path != run.workdir / name:
        rates = (read_stamp(path) or {}).get('train', {}).get('ema_rates', rates)
    return max(rates, default=0.0)


def network_stamp(run: Run, name: str) -> dict[str, Any]:
    """Which parameters a result depends on: a file by its digest, so that it may be moved, or a folder of
    training by its settings and step."""
    path = network_path(run, name)
    if not is_file(path) and latest_step(path / CHECKPOINTS) is None:
        raise _missing(path, name)
    return stored_stamp(path, run.workdir)


def stored_stamp(path: Path, workdir: Path) -> dict[str, Any]:
    """See `network_stamp`."""
    if is_file(path):
        header = describe_stored(path)
        return {'weights': header.name, 'digest': header.digest}
    settings = zlib.crc32(json.dumps(read_stamp(path), sort_keys=True).encode())
    folder = path.relative_to(workdir) if path.is_relative_to(workdir) else path
    return {'folder': str(folder), 'settings': f'{settings:08x}', 'step': latest_step(path / CHECKPOINTS)}


def network_of(run: Run, name: str) -> Any:
    """The network that the config describes; the weak one describes itself."""
    if name != WEAK:
        return run.experiment.networks[name]
    stored: Any = describe_stored(network_path(run, name)).network
    return dataclasses.replace(stored, dtype=run.experiment.unet.dtype)


def load_network(run: Run, name: str) -> Params:
    """The parameters that sampling uses, laid out on the mesh as in training."""
    path = network_path(run, name)
    with out_of_memory(f'loading {path}', 'free memory of the devices, or use larger ones'):
        params, origin = load_stored(path, network_of(run, name), run.mesh, average_of(run, name))
    logger.info('%s: parameters of %s%s', name, path, origin)
    return params


def check_network(run: Run, name: str) -> None:
    """Raises UserError unless the run trains the network or has stored parameters for sampling."""
    path = network_path(run, name)
    if name == WEAK:
        model = Spec(run.experiment.unet, run.experiment.diffusion, classes=classes_of(run, DIFFUSION)[1])
        with given_by('config.sample.weak'):
            return check_weak(describe_stored(path), model, path)
    if TRAINED_BY[name] in run.stages:
        return
    if not is_file(path) and latest_step(path / CHECKPOINTS) is None:
        raise _missing(path, name)
    check_stored(path, run.experiment.networks[name], run.experiment.diffusion, average_of(run, name))
    size, trained = run.experiment.data.low_res_size, describe_stored(path).low_res_size
    if name == DIFFUSION and trained not in (None, size):
        problem = f'got {size}, but {path} was trained with {trained}'
        raise UserError('config.data.low_res_size', problem, 'set it to that, or use another upsampler')


def check_classes(run: Run) -> None:
    """Raises UserError if the same label means different classes to the two networks."""
    if run.experiment.unet.num_classes is None or run.experiment.classifier is None:
        return
    check_same_classes(*classes_of(run, CLASSIFIER), *classes_of(run, DIFFUSION))


def report_unread_images(run: Run) -> None:
    """Logs which images the stored diffusion model knows, if the config names some: sampling reads none."""
    path, data = network_path(run, DIFFUSION), run.experiment.data
    if TRAINED_BY[DIFFUSION] not in run.stages and (data.path or data.tfds_name):
        images, classes = (read_stamp(path) or {}).get('images', {}), stored_classes(path)
        count = f', on {images["count"]:,} images' if images else ''
        names = f' of the classes {listed(classes)}' if classes else ''
        logger.info('sample: the images of config.data are not read: %s is trained%s%s', path, count, names)


def classes_of(run: Run, name: str) -> tuple[str, tuple[str, ...]]:
    """Where the classes of a network come from, for messages, and their names; () if these are unknown."""
    path = network_path(run, name)
    # The classes of a new network are those of the images; a resumed training compares them itself.
    if TRAINED_BY[name] in run.stages and not (run.workdir / name).exists():
        return 'config.data', tuple(class_names(run.source('train')))
    return str(path), stored_classes(path)


def _missing(path: Path, name: str) -> UserError:
    unguided = ', or sample without guidance: config.sample.scale=0' if name == CLASSIFIER else ''
    return UserError(
        str(path / CHECKPOINTS),
        f'no checkpoint of the {name} network',
        f'set config.pretrained.{name} to a file of weights or a folder of training such as '
        f'runs/digits/{name}, or run the stage {TRAINED_BY[name]} first{unguided}',
    )


def start_stamp(pretrained: str) -> str:
    """Which parameters a training starts from; '' for random ones."""
    is_weights = pretrained and is_file(Path(pretrained))
    return f'weights {describe_stored(Path(pretrained)).digest}' if is_weights else pretrained
