"""Checkpoints of one network's training, kept by Orbax.

A checkpoint is a folder `<step>` of items that can be read alone: `params`, one `ema_<rate>` for every
average, `training` (optimizer, timestep sampler, key), `network` (the architecture) and `progress` (the rest
that a run needs to go on exactly, as JSON: position in the data, metrics that are not logged yet).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from diffusion_jax import models
from diffusion_jax.errors import UserError
from diffusion_jax.training.step import Params, TrainState

# What changes how a network is computed, not what its parameters mean.
_NOT_ARCHITECTURE = ('dtype', 'remat', 'dropout')


def describe_network(config: Any) -> dict[str, Any]:
    """The architecture as JSON; two networks that may share parameters have equal descriptions."""
    fields = dataclasses.asdict(config)
    described = {name: value for name, value in fields.items() if name not in _NOT_ARCHITECTURE}
    return {'kind': type(config).__name__} | {
        name: list(value) if isinstance(value, tuple) else value for name, value in described.items()
    }


class Checkpoints:
    """The checkpoints of one folder: writes in the background, keeps the newest few."""

    def __init__(self, directory: Path, keep: int | None = None):
        self.directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, progress: dict[str, Any], network: dict[str, Any]) -> None:
        """Starts to write the state; a step that is there already is left as it is."""
        step = int(state.step)
        if step == self.latest_step:
            return
        items = {f'ema_{rate}': ocp.args.StandardSave(params) for rate, params in state.ema.items()}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                training=ocp.args.StandardSave(_training_part(state)),
                network=ocp.args.JsonSave(network),
                progress=ocp.args.JsonSave(progress),
                **items,
            ),
        )

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest state, and the progress that was saved with it.

        Args:
            abstract: the state as ShapeDtypeStructs with the shardings that the restored one shall have.
        """
        items = {f'ema_{rate}': ocp.args.StandardRestore(params) for rate, params in abstract.ema.items()}
        restored = self._manager.restore(
            self.latest_step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(abstract.params),
                training=ocp.args.StandardRestore(_training_part(abstract)),
                progress=ocp.args.JsonRestore(),
                **items,
            ),
        )
        ema = {rate: restored[f'ema_{rate}'] for rate in abstract.ema}
        return TrainState(params=restored.params, ema=ema, **restored.training), restored.progress


def _training_part(state: TrainState) -> dict[str, Any]:
    return {name: value for name, value in state._asdict().items() if name not in ('params', 'ema')}


def latest_step(directory: Path) -> int | None:
    """The newest step in a folder of checkpoints; None where there is no folder or no checkpoint."""
    directory = Path(directory)
    return max(ocp.utils.checkpoint_steps(directory), default=None) if directory.is_dir() else None


def load_params(
    directory: Path, config: Any, ema_rate: float = 0.0, sharding: jax.sharding.Sharding | None = None
) -> tuple[Params, int]:
    """Parameters of the newest checkpoint in a folder, and its step.

    Args:
        config: the network that they are for.
        ema_rate: which average; 0 is the parameters themselves.
        sharding: where every array goes; by default to the first device.

    Raises:
        UserError: no checkpoint there, one of another architecture, or one without that average.
    """
    step = latest_step(directory)
    if step is None:
        raise UserError(f'{directory}: no checkpoint there; train the network first, or name another folder')
    folder = Path(directory).absolute() / str(step)
    with _reader(directory) as manager:
        item = f'ema_{ema_rate}' if ema_rate else 'params'
        kept = sorted(path.name for path in folder.iterdir() if path.name.startswith(('ema_', 'params')))
        if not {'network', item} <= {path.name for path in folder.iterdir()}:
            raise UserError(f'{folder}: has no {item}; it holds {", ".join(kept) or "nothing of a network"}')
        sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            models.param_shapes(config),
        )
        network = manager.restore(step, args=ocp.args.Composite(network=ocp.args.JsonRestore())).network
        _check_same_network(folder, network, describe_network(config))
        args = ocp.args.Composite(**{item: ocp.args.StandardRestore(target)})
        return manager.restore(step, args=args)[item], step


def _reader(directory: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(read_only=True)
    return ocp.CheckpointManager(Path(directory).absolute(), options=options)


def _check_same_network(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differences = [
        f'{name} is {found.get(name)} there and {wanted.get(name)} in the config'
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if differences:
        raise UserError(f'{folder}: a checkpoint of another network: {"; ".join(differences)}')
