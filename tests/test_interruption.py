import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from diffusion_jax.interruption import interruptible, stop_requests


def test_a_signal_is_heard_while_a_call_is_under_way(capsys):
    """The call ends only when the signal has been heard."""

    def call():
        assert threading.current_thread() is not threading.main_thread()
        for _ in range(2):  # schedulers repeat themselves
            os.kill(os.getpid(), signal.SIGTERM)
            while not stop():
                time.sleep(0.01)
        return 'done'

    with stop_requests() as stop:
        assert interruptible(call) == 'done'
    assert capsys.readouterr().err.count('Ctrl-C') == 2


def test_in_another_thread_signals_are_not_heard():
    before, answers = signal.getsignal(signal.SIGINT), []

    def ask():
        with stop_requests() as stop:
            answers.append(stop())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert answers == [False] and signal.getsignal(signal.SIGINT) is before


SLEEPER = """
import time
from diffusion_jax.interruption import interruptible, stop_requests
with stop_requests():
    print('ready', flush=True)
    interruptible(lambda: time.sleep(600))
"""


def test_ctrl_c_after_a_signal_ends_the_program_at_once():
    with subprocess.Popen(
        [sys.executable, '-c', SLEEPER], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout.readline() == b'ready\n'
        run.send_signal(signal.SIGINT)
        assert run.stderr.readline() == b'\n' and b'Ctrl-C' in run.stderr.readline()
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=60) == 130


@pytest.mark.parametrize(('handler', 'stops'), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_closed_terminal_asks_to_stop_unless_nohup_says_otherwise(handler, stops):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop() is stops
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_line_for_which_there_is_no_reader_is_dropped():
    program = 'import os; from diffusion_jax.errors import say; os.close(2); say("lost"); os._exit(3)'
    assert subprocess.run([sys.executable, '-c', program]).returncode == 3
