"""One way to open a stored network: a file of weights, or a folder of training such as runs/digits/diffusion.

`diffusion-jax convert` writes such files, the training stages such folders. Files of published models in
other formats are opened, too.
"""

from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from diffusion_jax.data.classes import listed
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.errors import UserError
from diffusion_jax.models import ClassifierConfig, Params, UNetConfig, differences, network_differences
from diffusion_jax.settings import file_path, read_section
from diffusion_jax.sharding import param_shardings
from diffusion_jax.training.checkpoints import check_checkpoint, load_params, read_network
from diffusion_jax.weights.files import Spec, load_weights, read_spec
from diffusion_jax.weights.foreign import describe_foreign, is_foreign, load_foreign
from diffusion_jax.workdir import STAMP_FILE, read_stamp

Network = UNetConfig | ClassifierConfig

DIFFUSION, CLASSIFIER = 'diffusion', 'classifier'  # the networks of a run, and their folders in it
CHECKPOINTS = 'checkpoints'
TRAINED_BY = {DIFFUSION: 'train', CLASSIFIER: 'train_classifier'}  # the stage that trains a network


def name_of(network: Network) -> str:
    return DIFFUSION if isinstance(network, UNetConfig) else CLASSIFIER


def stored_path(path: str | Path, name: str) -> Path:
    """The file or the folder of training in which a network is stored; `path` may also be a run."""
    path = Path(file_path(path))
    return path / name if (path / name / CHECKPOINTS).is_dir() else path


def describe_stored(path: Path) -> Spec:
    """The network stored at a path, without the parameters. Raises UserError if there is none."""
    if is_file(path):
        return describe_foreign(path) if is_foreign(path) else read_spec(path)
    stamp = _training_stamp(path)
    process = read_section(DiffusionConfig, stamp.get('diffusion'), f'{path}/{STAMP_FILE}: diffusion')
    size = stamp.get('data', {}).get('low_res_size')
    classes = stored_classes(path)
    return Spec(read_network(path / CHECKPOINTS), process, classes=classes, low_res_size=size and tuple(size))


def stored_classes(path: Path) -> tuple[str, ...]:
    """The names of the classes of a stored network, in label order; () if they are unknown."""
    if is_file(path):
        return describe_stored(path).classes
    return tuple((read_stamp(path) or {}).get('images', {}).get('classes', ()))


def check_stored(path: Path, network: Network, process: DiffusionConfig, ema_rate: float = 0.0) -> None:
    """Raises UserError unless the stored parameters are those of this network and process.

    ema_rate: the average in a folder of training, 0 for the parameters themselves; ignored for a file.
    """
    stored, expected = describe_stored(path), Spec(network, process)
    name = name_of(network)
    if name_of(stored.network) != name:
        raise UserError(str(path), f'holds a {name_of(stored.network)} model', f'give a {name} model')
    wrong = network_differences(stored.network, network) + differences(stored.process, expected.process)
    if wrong:
        only_classes = len(wrong) == 1 and wrong[0].startswith('num_classes') and network.num_classes
        size, such = stored.network.image_size, ''
        if size != network.image_size:
            such = f', such as --config.data.image_size={size[0]},{size[1]}'
        remedy = f'give the settings of its training{such}, or another --workdir or network'
        if only_classes:
            remedy = f'run the stage {TRAINED_BY[name]} first, which starts from it'
        raise UserError(str(path), f'holds another network: {"; ".join(wrong)}', remedy)
    if not is_file(path):
        check_checkpoint(path / CHECKPOINTS, network, ema_rate)


def load_stored(
    path: Path, network: Network, mesh: Mesh | None = None, ema_rate: float = 0.0
) -> tuple[Params, str]:
    """The parameters stored at a path, and their origin for messages: ', step 1000, average of rate 0.995'.

    Raises UserError if the file or the checkpoint is damaged, or has no such average.

    Args:
        mesh: where they go, by `param_shardings`. By default the parameters of a file stay NumPy arrays, and
            those of a training go to the first device.
        ema_rate: see `check_stored`.
    """
    if is_file(path):
        params = (load_foreign if is_foreign(path) else load_weights)(path)[1]
        return params if mesh is None else jax.device_put(params, param_shardings(mesh, params)), ''
    params, step = load_params(path / CHECKPOINTS, network, ema_rate, mesh)
    return params, f', step {step}' + (f', average of rate {ema_rate}' if ema_rate else '')


def default_average(path: Path) -> float:
    """The highest rate of the averages in a folder of training; 0, the parameters themselves, without any."""
    return 0.0 if is_file(path) else max(_training_stamp(path)['train']['ema_rates'], default=0.0)


def is_file(path: Path) -> bool:
    """Whether a path names a file of weights, existing or not, rather than a folder."""
    return path.suffix == '.safetensors' or path.is_file()


def _training_stamp(folder: Path) -> dict[str, Any]:
    """The stamp of a folder of training. Raises UserError if it is none."""
    stamp = read_stamp(folder)
    if stamp is not None and (folder / CHECKPOINTS).is_dir():
        return stamp
    if not folder.is_dir():
        raise UserError(str(folder), 'no such file or folder')
    trained = [str(folder / name) for name in TRAINED_BY if (folder / name).is_dir()]
    remedy = 'give ' + (' or '.join(trained) or 'a folder of training or a file of weights')
    held = listed(sorted(f'{entry.name}{"/" * entry.is_dir()}' for entry in folder.iterdir())) or 'nothing'
    raise UserError(str(folder), f'is not a folder of training (it holds {held})', remedy)
