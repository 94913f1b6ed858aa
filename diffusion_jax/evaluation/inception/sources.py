"""Files of Inception v3 (2015-12-05) as others released it. What kind of file it is, its content says."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flax import traverse_util

from diffusion_jax.errors import UserError, reason
from diffusion_jax.evaluation.inception.files import Inception, params_sha256
from diffusion_jax.evaluation.inception.graph_def import read_graph
from diffusion_jax.evaluation.inception.names import params_from_state
from diffusion_jax.evaluation.inception.nvidia import read_nvidia_pickle, read_nvidia_torchscript
from diffusion_jax.evaluation.inception.unpickling import LEGACY_MAGIC
from diffusion_jax.weights.arrays import check_finite
from diffusion_jax.weights.torch_files import read_state

RELEASED = (
    'pt_inception-2015-12-05-6726825d.pth (pytorch-fid), inception-2015-12-05.pt (StyleGAN2-ADA), '
    'inception-v3-2015-12-05.pkl (StyleGAN3) or classify_image_graph_def.pb (TensorFlow)'
)


def read_inception(path: str | Path) -> Inception:
    """Reads one of the released files; nothing in it is executed.

    Raises:
        UserError: it is none of these, not whole, or PyTorch is missing where its own file needs it.
    """
    path = Path(path)
    state = _reader(path)(path)
    try:
        # What is no number shows below; NumPy need not warn of it.
        with np.errstate(all='ignore'):
            params = params_from_state(state)
    except UserError as error:
        raise UserError(f'{path}: is not Inception v3 of 2015-12-05 ({error}); give {RELEASED}') from error
    check_finite(path, traverse_util.flatten_dict(params, sep='/'))
    with open(path, 'rb') as file:
        source_sha256 = hashlib.file_digest(file, 'sha256').hexdigest()
    return Inception(params, params_sha256(params), path.name, source_sha256)


def _reader(path: Path) -> Callable[[Path], dict[str, np.ndarray]]:
    """What reads files of this kind, into a state_dict of the PyTorch port."""
    try:
        with open(path, 'rb') as file:
            start = file.read(16)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({reason(error)}); give {RELEASED}') from error
    members = _members(path) if start.startswith(b'PK') else set()
    if 'constants.pkl' in members:  # of TorchScript only
        return read_nvidia_torchscript
    if 'data.pkl' in members:
        return read_state
    if LEGACY_MAGIC.to_bytes(10, 'little') in start:
        return read_state
    if start.startswith(b'\x80'):  # every pickle since Python 2.3
        return read_nvidia_pickle
    if start.startswith(b'\n'):  # the first node of a graph
        return read_graph
    if start[8:9] == b'{':
        raise UserError(f'{path}: is a safetensors file, as this command writes them; give {RELEASED}')
    if start.startswith(b'\x1f\x8b'):
        raise UserError(f'{path}: is packed; unpack it (tar xf) and give its classify_image_graph_def.pb')
    raise UserError(f'{path}: is none of the files that are known here; give {RELEASED}')


def _members(path: Path) -> set[str]:
    """The names of an archive's members, without the folder that PyTorch puts them in."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.partition('/')[2] for name in archive.namelist()}
    except Exception as error:  # of all kinds, depending on what is damaged
        raise UserError(
            f'{path}: is an archive that is not whole ({reason(error)}); get the file again'
        ) from error
