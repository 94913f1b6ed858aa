"""One way to open a stored network: a file of weights, or a folder of training such as runs/digits/diffusion.

`diffusion-jax convert` writes such files; the training stages write such folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.errors import UserError
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig, differences, network_differences
from diffusion_jax.settings import read_section
from diffusion_jax.sharding import param_shardings
from diffusion_jax.training.checkpoints import check_checkpoint, latest_step, load_params, read_network
from diffusion_jax.weights.files import Spec, load_weights, read_spec
from diffusion_jax.workdir import STAMP_FILE, read_stamp

Network = UNetConfig | ClassifierConfig

DIFFUSION, CLASSIFIER = 'diffusion', 'classifier'  # the folders of a run in which they are trained
CHECKPOINTS = 'checkpoints'
TRAINED_BY = {UNetConfig: 'train', ClassifierConfig: 'train_classifier'}
KINDS = {UNetConfig: 'a diffusion model', ClassifierConfig: 'a classifier'}


def describe_stored(path: Path) -> Spec:
    """The network stored at a path and its diffusion process, without the parameters.

    Raises:
        UserError: no network is stored there. The message lists the contents of a folder.
    """
    if is_file(path):
        return read_spec(path)
    stamp = _training_stamp(path)
    if latest_step(path / CHECKPOINTS) is None:
        raise UserError(f'{path / CHECKPOINTS}: no checkpoint yet; run the training until it saves one')
    process = read_section(DiffusionConfig, stamp.get('diffusion'), f'{path}/{STAMP_FILE}: diffusion')
    return Spec(read_network(path / CHECKPOINTS), process, classes=stored_classes(path))


def stored_classes(path: Path) -> tuple[str, ...]:
    """The names of the classes of a stored network, in label order; () where they are not known."""
    if is_file(path):
        return read_spec(path).classes
    return tuple((read_stamp(path) or {}).get('images', {}).get('classes', ()))


def check_stored(path: Path, network: Network, process: DiffusionConfig, ema_rate: float = 0.0) -> None:
    """UserError unless the parameters stored there are those of a network that knows the process.

    ema_rate: the average in a folder of training, 0 for the parameters themselves; a file has one set only.
    """
    stored, wanted = describe_stored(path), Spec(network, process)
    if type(stored.network) is not type(network):
        kinds = f'{KINDS[type(stored.network)]}, not {KINDS[type(network)]}'
        raise UserError(f'{path}: holds {kinds}; give another file or folder')
    wrong = network_differences(stored.network, network)
    wrong += differences(stored.process, wanted.process)
    if wrong:
        hint = ''
        if len(wrong) == 1 and wrong[0].startswith('num_classes') and network.num_classes:
            hint = (
                f'; train one for {network.num_classes} classes first: --stage={TRAINED_BY[type(network)]} '
                '(it starts from this one)'
            )
        raise UserError(f'{path}: of another network: {"; ".join(wrong)}{hint}')
    if not is_file(path):
        check_checkpoint(path / CHECKPOINTS, network, ema_rate)


def load_stored(
    path: Path, network: Network, mesh: Mesh | None = None, ema_rate: float = 0.0
) -> tuple[Params, str]:
    """The parameters stored at a path, and a phrase that says which of them: ', step 1000, average of 0.995'.

    Args:
        mesh: where they go, by `param_shardings`. Without it the parameters of a file stay NumPy arrays, and
            those of a training go to the first device.
        ema_rate: see `check_stored`.

    Raises:
        UserError: the file or the checkpoint is damaged, or has no such average.
    """
    if is_file(path):
        params = load_weights(path)[1]
        return params if mesh is None else jax.device_put(params, param_shardings(mesh, params)), ''
    params, step = load_params(path / CHECKPOINTS, network, ema_rate, mesh)
    return params, f', step {step}' + (f', average of rate {ema_rate}' if ema_rate else '')


def default_average(path: Path) -> float:
    """The rate of the average that is used unless another is asked for: the highest of those that a training
    keeps; 0, the parameters themselves, where it keeps none, and for a file of weights."""
    return 0.0 if is_file(path) else max(_training_stamp(path)['train']['ema_rates'], default=0.0)


def is_file(path: Path) -> bool:
    """Whether a path names a file of weights, existing or not, rather than a folder."""
    return path.suffix == '.safetensors' or path.is_file()


def contents(folder: Path) -> str:
    """The names in a folder, for messages."""
    names = sorted(f'{entry.name}{"/" * entry.is_dir()}' for entry in folder.iterdir())
    return ', '.join(names[:12]) + (', …' if len(names) > 12 else '') or 'nothing'


def _training_stamp(folder: Path) -> dict[str, Any]:
    """The settings of the training in a folder. UserError where it is no folder of training."""
    if not folder.is_dir():
        raise UserError(f'{folder}: no such file or folder')
    stamp = read_stamp(folder)
    if stamp is not None and (folder / CHECKPOINTS).is_dir():
        return stamp
    trained = [str(folder / name) for name in (DIFFUSION, CLASSIFIER) if (folder / name).is_dir()]
    remedy = f'give {" or ".join(trained)}' if trained else 'give a folder of training or a file of weights'
    raise UserError(f'{folder}: is no folder of training (it holds {contents(folder)}); {remedy}')
