"""Processes that are asked by `protocol`: each has a program of its own, and may fail alone."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TAIL = 2000  # characters of stderr that are kept of a process that failed


class Worker:
    """A process that serves `module` with a job; `name` is that of its log in `folder`."""

    def __init__(self, module: str, job: dict[str, Any], env: dict[str, str], log: Path, python: str = ''):
        self.log = log
        paths = [str(HERE.parent), str(HERE.parents[1]), *env.get('PYTHONPATH', '').split(os.pathsep)]
        env = env | {'PYTHONPATH': os.pathsep.join(filter(None, paths))}
        with log.open('a') as stderr:
            self.process = subprocess.Popen(
                [python or sys.executable, '-P', '-m', module, json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=env,
                text=True,
                start_new_session=True,  # compilers that it starts end with it
            )
        self.closed = False
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put('')

    def send(self, do: str, **arguments: Any) -> None:
        """Asks without waiting; `answer` gives what comes of it."""
        with contextlib.suppress(OSError):  # a process that died answers that it did
            self.process.stdin.write(json.dumps({'do': do} | arguments) + '\n')
            self.process.stdin.flush()

    def answer(self, until: float) -> dict[str, Any]:
        """The next answer; an `error` where there is none `until` this moment of time.monotonic()."""
        try:
            line = self.lines.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            self.close()
            return {'error': 'time ran out', 'memory': False}
        if line:
            answer = json.loads(line)
            return answer | {'stderr': self.tail()} if 'error' in answer else answer
        self.lines.put('')  # for the next question
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        code = self.process.returncode
        self.close()
        said = [line.strip() for line in self.tail().splitlines() if line.strip()]
        error = f'the process ended with code {code}: {said[-1] if said else ""}'[:200]
        return {'error': error, 'memory': False, 'stderr': self.tail()}

    def ask(self, until: float, do: str, **arguments: Any) -> dict[str, Any]:
        """`send` and `answer`."""
        self.send(do, **arguments)
        return self.answer(until)

    def tail(self) -> str:
        """The end of what it wrote to stderr."""
        return self.log.read_text(errors='replace')[-TAIL:]

    def close(self) -> None:
        """Ends the process and those that it started."""
        if not self.closed:
            self.closed = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def has_torch(python: str) -> bool:
    """Whether a Python has PyTorch."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    try:
        return subprocess.run([python, '-c', code], check=False, capture_output=True).returncode == 0
    except OSError:
        return False
