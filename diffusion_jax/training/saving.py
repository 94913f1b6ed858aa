"""Writing checkpoints, and going on from them, whatever happens to the disk.

A training goes on from the newest checkpoint that is whole. Damaged ones are moved to `damaged/`, where Orbax
does not see them; nothing is deleted.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from diffusion_jax.errors import UserError
from diffusion_jax.hosts import any_process, check_same, raise_together
from diffusion_jax.interruption import Interrupted
from diffusion_jax.training.barrier import Barrier
from diffusion_jax.training.checkpoints import DamagedCheckpoint, checksum, read, reason_of
from diffusion_jax.training.digest import digest
from diffusion_jax.training.paths import check_path
from diffusion_jax.training.quiet import keep_orbax_quiet
from diffusion_jax.training.step import TrainState
from diffusion_jax.training.written import TEMPORARY, check_written, expected, remove_older

logger = logging.getLogger(__name__)

DAMAGED = 'damaged'


class Checkpoints:
    """The checkpoints of one folder, for the one run that writes there: in the background, the newest few.

    A failed save, typically because the disk is full, is reported in one line; older checkpoints stay, and
    the next `save` tries again. A checkpoint that is found damaged after it was written is such a failure and
    is moved to `damaged/`; older ones are removed only after the new one was checked. Several hosts write
    together; where one of them fails all do.

    Attributes:
        latest_step: of the newest checkpoint, or None; it may still be in the writing.

    Raises:
        UserError: no checkpoint can be written to a folder of such a name.
    """

    def __init__(self, directory: Path, keep: int | None = None):
        check_path(directory, write=True)
        self.directory = Path(directory).absolute()
        self._keep = keep
        self._writing = False
        self._failure = ''
        self._barrier = Barrier()
        keep_orbax_quiet()
        self._open()

    def __enter__(self) -> Checkpoints:
        """Raises UserError where hosts do not see the same checkpoints."""
        check_same(f'checkpoints in {self.directory}', sorted(self._manager.all_steps()))
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Raises UserError where the last write failed, unless another error is under way."""
        expected = error is None or isinstance(error, Interrupted)
        self._settle(any_process if expected else bool)  # other errors may be of one host alone
        self._close()
        if not self._failure:
            return
        self._remove_half_written()
        saved = 'the start' if self.latest_step is None else f'step {self.latest_step}'
        message = (
            f'{self.directory}: {self._failure}; mend that and give the same command to go on from {saved}'
        )
        if expected:
            raise UserError(message)
        logger.warning(message)

    def save(self, state: TrainState, progress: dict[str, Any], network: dict[str, Any]) -> None:
        """Starts to write the state; a step that is there already is left as it is."""
        if not self._settle():
            self._go_on()
        step = int(state.step)
        if step == self.latest_step:
            return
        items, records = _items(state), {'network': network, 'progress': progress}
        digests = {name: digest(tree) for name, tree in items.items()}
        digests |= {name: checksum(record) for name, record in records.items()}
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        texts = {name: ocp.args.JsonSave(record) for name, record in (records | {'digests': digests}).items()}
        wrong = self._try_folder()
        if any_process(wrong is not None):
            self._failure = _failure(step, wrong or RuntimeError('host 0 could not make its folder'))
            self._go_on()
            return
        self._barrier.begin()
        try:
            started = self._manager.save(step, args=ocp.args.Composite(**arrays, **texts))
        except Exception as error:  # Orbax raises all kinds, bare Exception among them
            if jax.process_count() > 1:  # no file is written yet; the others are where all hosts meet
                raise
            self._failure = _failure(step, error)
            self._go_on()
            return
        if not started:
            raise UserError(f'{self.directory}: Orbax did not write step {step}; is there a later one?')
        self.latest_step, self._writing = step, True
        self._expected = expected(items, records, digests)

    def put_off(self, step: int, reason: str) -> None:
        """Says why a step is not saved; the next `save` goes on as after a write that failed."""
        self._settle()
        self._failure = f'step {step} could not be saved ({reason})'
        self._go_on()

    def look_after(self) -> None:
        """Says now whether a write has failed, not only at the next `save`; all hosts call it."""
        if not self._writing or any_process(self._manager.is_saving_in_progress()):
            return
        if not self._settle():
            self._go_on()

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest state that is whole, and the progress that was saved with it.

        Damaged checkpoints that are newer are moved to `damaged/`, with a warning for each.

        Args:
            abstract: the state as ShapeDtypeStructs with the shardings that the restored one shall have.

        Raises:
            UserError: no checkpoint is whole; all are left where they are.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                items, records = read(self.directory, step, _items(abstract), ('network', 'progress'))
            except DamagedCheckpoint as error:
                damaged[step] = error.reason
                continue
            if damaged:
                self._set_aside(damaged, step)
            ema = {rate: items[f'ema_{rate}'] for rate in abstract.ema}
            return TrainState(params=items['params'], ema=ema, **items['training']), records['progress']
        reasons = '; '.join(f'step {step}: {reason}' for step, reason in damaged.items())
        raise UserError(
            f'{self.directory}: no checkpoint is whole ({reasons}); move this folder away to train anew'
        )

    def _set_aside(self, damaged: dict[int, str], whole: int) -> None:
        """Moves checkpoints out of sight of Orbax, which writes no step before the newest that it sees."""
        self._close()
        with raise_together():
            for step, reason in damaged.items() if jax.process_index() == 0 else ():
                folder = self.directory / str(step)
                try:
                    target = self._quarantine(step)
                except OSError as error:
                    raise UserError(
                        f'{folder}: damaged ({reason}) and cannot be moved to {DAMAGED}/ ({error.strerror})'
                    ) from error
                moved = f'damaged ({reason}); moved to {DAMAGED}/{target.name}'
                logger.warning('%s: %s, training goes on from step %d', folder, moved, whole)
        self._open()

    def _open(self) -> None:
        self._remove_half_written()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None,  # Orbax would remove older ones before anyone can check the new one
            enable_async_checkpointing=True,
            async_options=ocp.options.AsyncOptions(barrier_sync_fn=self._barrier),
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self.latest_step = _newest(self.directory)

    def _remove_half_written(self) -> None:
        """Again and again for a moment: what TensorStore began to write it ends, in folders made anew."""
        for _ in range(20):
            paths = list(self.directory.glob(f'*{TEMPORARY}*'))
            if not paths or jax.process_index() > 0:
                return
            for path in paths:
                shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.05)

    def _try_folder(self) -> OSError | None:
        """Makes one and takes it away: were it in the write that the first host cannot make its folder, Orbax
        would let the others wait for it for five minutes."""
        try:
            if jax.process_index() == 0:
                trial = self.directory / f'trial{TEMPORARY}'
                trial.mkdir(exist_ok=True)
                trial.rmdir()
        except OSError as error:
            return error
        return None

    def _close(self) -> None:
        with contextlib.suppress(Exception):  # it repeats what `_settle` was told
            self._manager.close()

    def _settle(self, agree: Callable[[bool], bool] = any_process) -> bool:
        """Waits for the save under way, if any, and checks what it wrote. False: it failed."""
        if not self._writing:
            return True
        self._writing, self._failure = False, ''
        error, checked = self._outcome()
        failed = agree(error is not None)
        if failed:
            self._failure = _failure(self.latest_step, error or RuntimeError('another host failed'))
        if jax.process_index() == 0:
            self._tidy(failed, checked)
        agree(False)  # all hosts see the same checkpoints from here on
        self.latest_step = _newest(self.directory)
        return not failed

    def _outcome(self) -> tuple[Exception | None, bool]:
        """Why the save under way failed, if it did, and whether what it wrote could be checked."""
        try:
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                check_written(self.directory, self.latest_step, self._expected)
        except UserError as error:
            if isinstance(error, DamagedCheckpoint):
                return error, True
            logger.warning('%s; it was not checked, and replaces no older one', error)
            return None, False
        except Exception as error:
            return error, True
        return None, True

    def _tidy(self, failed: bool, checked: bool) -> None:
        """Moves the newest checkpoint to `damaged/` if it failed, or removes those that it replaces."""
        try:
            if failed and (self.directory / str(self.latest_step)).exists():
                self._quarantine(self.latest_step)
            elif not failed and checked:
                remove_older(self.directory, self._keep)
        except OSError as error:
            saved = f'step {self.latest_step} {"could not be" if failed else "is"} saved'
            why = reason_of(error)
            logger.warning('%s: %s, and not all was moved or removed (%s)', self.directory, saved, why)

    def _quarantine(self, step: int) -> Path:
        """Moves a checkpoint out of sight of Orbax. OSError where that cannot be done."""
        target = _free_name(self.directory / DAMAGED / str(step))
        target.parent.mkdir(exist_ok=True)
        (self.directory / str(step)).rename(target)
        return target

    def _go_on(self) -> None:
        self._close()
        self._open()  # anew: Orbax counts the failed step among those it keeps
        if not self._failure:
            return
        kept = 'there is none yet' if self.latest_step is None else f'the newest is step {self.latest_step}'
        logger.warning('%s: %s; training goes on, %s', self.directory, self._failure, kept)


def _newest(directory: Path) -> int | None:
    return max(ocp.utils.checkpoint_steps(directory), default=None)


def _failure(step: int, error: Exception) -> str:
    reason = error.reason if isinstance(error, DamagedCheckpoint) else reason_of(error)
    return f'step {step} could not be saved ({reason})'


def _free_name(path: Path) -> Path:
    names = (path.with_name(f'{path.name}-{number}') for number in itertools.count(2))
    return next(name for name in itertools.chain([path], names) if not name.exists())


def _items(state: TrainState) -> dict[str, Any]:
    """The parts of a state, or of its description, that are saved as items of their own."""
    averages = {f'ema_{rate}': params for rate, params in state.ema.items()}
    rest = {name: value for name, value in state._asdict().items() if name not in ('params', 'ema')}
    return {'params': state.params, 'training': rest, **averages}
