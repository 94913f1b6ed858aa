"""Writing checkpoints in the background, and resuming from the newest intact one.

Damaged checkpoints are moved to `damaged/`, where no reader looks; they are not deleted.
"""

import itertools
import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from diffusion_jax.errors import UserError, reason
from diffusion_jax.hosts import any_process, check_same, raise_together
from diffusion_jax.interruption import Interrupted
from diffusion_jax.training.checkpoints import DamagedCheckpoint, check_path, digests, latest_step, read
from diffusion_jax.training.step import TrainState

logger = logging.getLogger(__name__)

DAMAGED = 'damaged'
PARTIAL = '.orbax-checkpoint-tmp'  # in the name of a folder that is no checkpoint
TIMEOUT_SECONDS = 300  # of a host whose write waits for the other hosts


class Checkpoints:
    """The `keep` newest checkpoints in a folder (None keeps all), for the one run that writes there.

    A failed save, typically because of a full disk, is reported in one line; older checkpoints stay. Hosts
    write together; if one of them fails all do.

    latest_step: the newest step, which may still be being written; None without a checkpoint.
    """

    def __init__(self, directory: Path, keep: int | None = None):
        check_path(directory)
        self.directory = Path(directory).absolute()
        self._keep, self._failure = keep, ''
        self.latest_step: int | None = None
        self._write: Future[None] | None = None
        self._waiter = ThreadPoolExecutor(1)
        options = ocp.options.AsyncOptions(timeout_secs=TIMEOUT_SECONDS)
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), async_options=options)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._refresh()

    def __enter__(self) -> 'Checkpoints':
        """Raises UserError if hosts see different checkpoints."""
        check_same(f'checkpoints in {self.directory}', sorted(ocp.utils.checkpoint_steps(self.directory)))
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Raises UserError if the last write failed; only logs it if another error is under way."""
        expected = error is None or isinstance(error, Interrupted)
        pending = self._write is not None
        self._finish_write(any_process if expected else bool)  # other errors may be of one host alone
        self._waiter.shutdown()
        self._checkpointer.close()
        if pending and not expected:
            self._report()
        elif self._failure and expected:
            start = 'the start' if self.latest_step is None else f'step {self.latest_step}'
            remedy = f'fix the cause and rerun the command to resume from {start}'
            raise UserError(str(self.directory), self._failure, remedy)

    def save(self, state: TrainState, progress: dict[str, Any], network: dict[str, Any]) -> None:
        """Starts to write the state; does nothing if its step is saved already."""
        self.poll(wait=True)
        step = int(jax.device_get(state.step))
        if step == self.latest_step:
            return
        items, records = _items(state), {'network': network, 'progress': progress}
        records['digests'] = digests(items, records)
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        args |= {name: ocp.args.JsonSave(record) for name, record in records.items()}
        try:
            self._checkpointer.save(self.directory / str(step), args=ocp.args.Composite(**args))
        except Exception as error:  # Orbax raises all kinds, even plain Exception
            if jax.process_count() > 1:  # the other hosts are inside Orbax
                raise
            self._failure = f'step {step} could not be saved ({reason(error)})'
            self._refresh()
            self._report()
            return
        self.latest_step = step
        self._write = self._waiter.submit(self._checkpointer.wait_until_finished)

    def poll(self, wait: bool = False) -> None:
        """Reports a write that has failed by now, or, with `wait`, in the end; all hosts call it together."""
        if self._write is None or (not wait and any_process(not self._write.done())):
            return
        self._finish_write()
        self._report()

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest intact state and its progress. Newer checkpoints are moved to `damaged/`, with warnings.

        Raises UserError if no checkpoint is intact; then none is moved.

        abstract: the state as ShapeDtypeStructs with the shardings of the result.
        """
        damaged: dict[int, str] = {}
        for step in sorted(ocp.utils.checkpoint_steps(self.directory), reverse=True):
            try:
                items, records = read(self.directory, step, _items(abstract), ('network', 'progress'))
            except DamagedCheckpoint as error:
                damaged[step] = error.problem
                continue
            self._quarantine(damaged, step)
            ema = {rate: items[f'ema_{rate}'] for rate in abstract.ema}
            return TrainState(params=items['params'], ema=ema, **items['training']), records['progress']
        reasons = '; '.join(f'step {step}: {problem}' for step, problem in damaged.items())
        remedy = 'move this folder away to train from scratch'
        raise UserError(str(self.directory), f'contains no intact checkpoint ({reasons})', remedy)

    def _quarantine(self, damaged: dict[int, str], intact: int) -> None:
        with raise_together():
            for step, problem in damaged.items() if jax.process_index() == 0 else ():
                folder, suffixes = self.directory / str(step), itertools.chain([''], itertools.count(-2, -1))
                targets = (self.directory / DAMAGED / f'{step}{suffix}' for suffix in suffixes)
                target = next(path for path in targets if not path.exists())
                target.parent.mkdir(exist_ok=True)
                folder.rename(target)
                moved = f'{problem}; moved to {DAMAGED}/{target.name}'
                logger.warning('%s: %s, resuming from step %d', folder, moved, intact)
        self._refresh()

    def _finish_write(self, agree: Callable[[bool], bool] = any_process) -> None:
        """Waits for the write under way; notes its failure, or removes the checkpoints that it replaces."""
        if self._write is None:
            return
        error, self._write, self._failure = self._write.exception(), None, ''
        if agree(error is not None):
            why = reason(error.__cause__ or error) if error else 'another host failed'
            self._failure = f'step {self.latest_step} could not be saved ({why})'
        elif jax.process_index() == 0 and self._keep:
            for step in sorted(ocp.utils.checkpoint_steps(self.directory))[: -self._keep]:
                replaced = self.directory / str(step)
                try:  # a folder that is only half removed must not be a checkpoint
                    replaced.rename(f'{replaced}{PARTIAL}')
                except OSError as error:
                    logger.warning('%s: cannot be removed (%s)', replaced, reason(error))
        self._refresh(agree)

    def _refresh(self, agree: Callable[[bool], bool] = any_process) -> None:
        """Removes partial folders and finds the newest step."""
        for _ in range(20 if jax.process_index() == 0 else 0):
            partial = list(self.directory.glob(f'*{PARTIAL}*'))
            if not partial:
                break
            for path in partial:
                shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.05)  # TensorStore finishes pending writes, for which it creates the folder again
        agree(False)  # all hosts see the same checkpoints from here on
        self.latest_step = latest_step(self.directory)

    def _report(self) -> None:
        newest = 'none yet' if self.latest_step is None else f'step {self.latest_step}'
        if self._failure:
            logger.warning('%s: %s; newest checkpoint: %s', self.directory, self._failure, newest)


def _items(state: TrainState) -> dict[str, Any]:
    """The parts of a state, or of its description, that are saved as separate items."""
    averages = {f'ema_{rate}': params for rate, params in state.ema.items()}
    rest = {name: value for name, value in state._asdict().items() if name not in ('params', 'ema')}
    return {'params': state.params, 'training': rest, **averages}
