"""How a program ends: its exit code, and one line after an error that a user can act on."""

import errno
import traceback
from collections.abc import Callable

import jax

from diffusion_jax.devices import all_devices
from diffusion_jax.errors import UserError, reason, say
from diffusion_jax.hosts import abort
from diffusion_jax.interruption import Interrupted
from diffusion_jax.memory import describe, is_out_of_memory
from diffusion_jax.streams import patient_streams


def exit_code(program: Callable[[], int | None]) -> int:
    """Runs a program; its exit code: 0, 2 (an error), 130 (interrupted).

    Raises:
        Exception: any unexpected error, with its traceback. With several hosts it ends the process.
    """
    with patient_streams():
        try:
            return program() or 0
        except SystemExit as end:  # argparse, after --help
            return int(end.code or 0)
        except Interrupted as error:
            say(f'{error}; give the same command to resume')
            return 130
        except KeyboardInterrupt:
            say('interrupted')
            return 130
        except Exception as error:
            if known := _users_error(error):
                # One line, whatever a library or a file name has put into the error.
                say(f'error: {" ".join(str(known).splitlines())}')
                return 2
            if jax.process_count() == 1:
                raise
            if not isinstance(error, jax.errors.JaxRuntimeError):  # what the death of another host raises
                traceback.print_exc()
            abort(error)


def _users_error(error: Exception) -> UserError | None:
    """The error as a user can read it; None if it is not a user's."""
    if isinstance(error, UserError):
        return error
    if is_out_of_memory(error):
        return UserError('memory', describe(error), 'lower the batch size or use a larger device')
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return UserError(error.filename or 'the disk', reason(error), 'make room and rerun the command')
        if error.filename is not None:
            return UserError(error.filename, f'cannot be used ({reason(error)})')
    try:
        all_devices()
    except UserError as no_device:  # any call that needs a device may have failed first
        return no_device
    return None
