"""Checkpoints of one network's training, kept by Orbax.

A checkpoint is a folder `<step>` of items that can be read alone: `params`, one `ema_<rate>` for every
average, `training` (optimizer, timestep sampler, key), and as JSON `network` (the architecture), `progress`
(the rest that a run needs to go on exactly: position in the data, metrics that are not logged yet) and
`digests` of all arrays, by which damage is found that Orbax does not notice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from diffusion_jax import models
from diffusion_jax.errors import UserError
from diffusion_jax.models import (
    ClassifierConfig,
    Params,
    UNetConfig,
    describe_network,
    differences,
    network_of,
)
from diffusion_jax.training.digest import digest
from diffusion_jax.training.step import TrainState


def latest_step(directory: Path) -> int | None:
    """The newest step in a folder of checkpoints; None where there is no folder or no checkpoint.

    Raises:
        UserError: the newest is not whole: Orbax would neither restore it nor write any step before it.
    """
    directory = Path(directory)
    step = max(ocp.utils.checkpoint_steps(directory), default=None) if directory.is_dir() else None
    if step is not None and not (directory / str(step) / 'network').is_dir():
        raise UserError(f'{directory / str(step)}: not a whole checkpoint; remove this folder')
    return step


class Checkpoints:
    """The checkpoints of one folder: writes in the background, keeps the newest few."""

    def __init__(self, directory: Path, keep: int | None = None):
        self.directory = Path(directory).absolute()
        self.latest_step = latest_step(self.directory)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    def save(self, state: TrainState, progress: dict[str, Any], network: dict[str, Any]) -> None:
        """Starts to write the state; a step that is there already is left as it is."""
        step = int(state.step)
        if step == self.latest_step:
            return
        items = _items(state)
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        records = {
            'network': network,
            'progress': progress,
            'digests': {name: digest(tree) for name, tree in items.items()},
        }
        texts = {name: ocp.args.JsonSave(record) for name, record in records.items()}
        if not self._manager.save(step, args=ocp.args.Composite(**arrays, **texts)):
            raise UserError(f'{self.directory}: Orbax did not write step {step}; is there a later one?')
        self.latest_step = step

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest state, and the progress that was saved with it.

        Args:
            abstract: the state as ShapeDtypeStructs with the shardings that the restored one shall have.

        Raises:
            UserError: the checkpoint is damaged.
        """
        items, records = _read(self._manager, self.latest_step, _items(abstract), ('progress',))
        ema = {rate: items[f'ema_{rate}'] for rate in abstract.ema}
        return TrainState(params=items['params'], ema=ema, **items['training']), records['progress']


def read_network(directory: Path) -> UNetConfig | ClassifierConfig:
    """The architecture of the network whose checkpoints are in a folder. UserError where there are none."""
    step = latest_step(directory)
    if step is None:
        raise UserError(f'{directory}: no checkpoint there; train the network first, or name another folder')
    with _reader(directory) as manager:
        return network_of(_read(manager, step, {}, ('network',))[1]['network'])


def check_checkpoint(directory: Path, config: UNetConfig | ClassifierConfig, ema_rate: float = 0.0) -> int:
    """The newest step in a folder of checkpoints, if it is of a network and has what is asked of it.

    Args:
        config: the network.
        ema_rate: the average of the parameters; 0 is the parameters themselves.

    Raises:
        UserError: no checkpoint there, one of another architecture, or one without that average.
    """
    network = read_network(directory)
    step = latest_step(directory)
    folder = Path(directory).absolute() / str(step)
    wrong = differences(describe_network(network), describe_network(config))
    if wrong:
        raise UserError(f'{folder}: a checkpoint of another network: {"; ".join(wrong)}')
    kept = sorted(path.name for path in folder.iterdir() if path.name.startswith(('ema_', 'params')))
    if _item(ema_rate) not in kept:
        raise UserError(f'{folder}: has no {_item(ema_rate)}; it holds {", ".join(kept)}')
    return step


def load_params(
    directory: Path, config: Any, ema_rate: float = 0.0, sharding: jax.sharding.Sharding | None = None
) -> tuple[Params, int]:
    """Parameters of the newest checkpoint in a folder, and its step. For arguments see `check_checkpoint`.

    Args:
        sharding: where every array goes; by default to the first device.

    Raises:
        UserError: see `check_checkpoint`; or the checkpoint is damaged.
    """
    step = check_checkpoint(directory, config, ema_rate)
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        models.param_shapes(config),
    )
    item = _item(ema_rate)
    with _reader(directory) as manager:
        return _read(manager, step, {item: target}, ())[0][item], step


def _items(state: TrainState) -> dict[str, Any]:
    """The parts of a state, or of its description, that are saved as items of their own."""
    averages = {f'ema_{rate}': params for rate, params in state.ema.items()}
    rest = {name: value for name, value in state._asdict().items() if name not in ('params', 'ema')}
    return {'params': state.params, 'training': rest, **averages}


def _item(ema_rate: float) -> str:
    return f'ema_{ema_rate}' if ema_rate else 'params'


def _reader(directory: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(read_only=True)
    return ocp.CheckpointManager(Path(directory).absolute(), options=options)


def _read(
    manager: ocp.CheckpointManager, step: int, targets: dict[str, Any], records: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Items of arrays by name, checked against their digests, and JSON records by name."""
    arrays = {name: ocp.args.StandardRestore(target) for name, target in targets.items()}
    texts = {name: ocp.args.JsonRestore() for name in (*records, 'digests')}
    folder = manager.directory / str(step)
    remedy = 'remove this folder to go on from the checkpoint before it'
    try:
        restored = manager.restore(step, args=ocp.args.Composite(**arrays, **texts))
    except Exception as error:  # Orbax raises all kinds, bare Exception among them
        reason = str(error).splitlines()[0]
        raise UserError(f'{folder}: cannot be read ({reason}); {remedy}') from error
    for name in targets:
        for path, number in digest(restored[name]).items():
            if restored['digests'][name].get(path) != number:
                raise UserError(f'{folder}/{name}: {path} is not what was written; {remedy}')
    return {name: restored[name] for name in targets}, {name: restored[name] for name in records}
