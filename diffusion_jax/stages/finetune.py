"""Fine-tuning: training that starts from stored parameters, with the same classes or others."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util
from jax.sharding import Mesh

from diffusion_jax import models
from diffusion_jax.data.classes import listed
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.models import Params
from diffusion_jax.sharding import param_shardings
from diffusion_jax.stored_networks import (
    Network,
    check_stored,
    describe_stored,
    load_stored,
    stored_classes,
)

logger = logging.getLogger(__name__)


def check_start(path: Path, network: Network, process: DiffusionConfig) -> None:
    """Raises UserError unless training of the network can start from the parameters stored at the path."""
    check_stored(path, _with_stored_classes(path, network), process)


def load_start(path: Path, network: Network, classes: Sequence[str], key: jax.Array, mesh: Mesh) -> Params:
    """The stored parameters; for other classes, by number or name, with a new label embedding or head."""
    params, origin = load_stored(path, _with_stored_classes(path, network), mesh)
    logger.info('starts from the parameters of %s%s', path, origin)
    shapes = traverse_util.flatten_dict(models.param_shapes(network), sep='/')
    stored = stored_classes(path)
    renamed = _class_leaves(network, shapes) if stored and classes and stored != tuple(classes) else set()
    kept = {
        name: leaf
        for name, leaf in traverse_util.flatten_dict(params, sep='/').items()
        if name in shapes and leaf.shape == shapes[name].shape and name not in renamed
    }
    new = {name: shape for name, shape in shapes.items() if name not in kept}
    if new:
        others = listed(classes) or f'{network.num_classes} classes'
        logger.info('initialised for other classes (%s): %s', others, ', '.join(sorted(new)))

        def draw(key: jax.Array) -> dict[str, jax.Array]:
            flat = traverse_util.flatten_dict(models.init(network, key), sep='/')
            return {name: flat[name] for name in new}

        kept |= jax.jit(draw, out_shardings=param_shardings(mesh, new))(key)
    return traverse_util.unflatten_dict(kept, sep='/')


def _class_leaves(network: Network, shapes: Mapping[str, Any]) -> set[str]:
    """The parameters whose shapes depend on the number of classes."""
    if network.num_classes is None:
        return set()
    more = models.param_shapes(dataclasses.replace(network, num_classes=network.num_classes + 1))
    flat = traverse_util.flatten_dict(more, sep='/')
    return {name for name, leaf in flat.items() if leaf.shape != shapes[name].shape}


def _with_stored_classes(path: Path, network: Network) -> Network:
    """The network with the number of classes of the stored one, which alone may differ at the start."""
    num_classes: Any = describe_stored(path).network.num_classes
    return dataclasses.replace(network, num_classes=num_classes)
