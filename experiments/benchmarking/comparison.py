"""Our programs and the authors', timed in turn on one device.

First everything is compiled, in several processes at once, into caches. Then, while nothing else runs, the
programs of one part of a config are loaded from them, each by a process of its own, and called in turn. Where
they do not fit on the device together, one is loaded after the other. What fails is reported in its row, and
what there is no time for too: rows come in the order of their importance.
"""

import os
import re
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarking.entries import Entry
from benchmarking.first_image import measured
from benchmarking.workers import Worker

CALLS = 2  # that are timed before the next program has its turn
MARGIN = 1.15  # by which more memory must be free than XLA says that a program needs
COMPILING, LOADING = 0.5, 0.25  # of the budget: the most for all compilations, and for loading one part


class Limits(NamedTuple):
    """What a comparison may use.

    Attributes:
        budget: seconds for everything.
        repeats: calls of each program that are timed.
        jobs: programs that are compiled at a time.
    """

    budget: float
    repeats: int
    jobs: int


class Comparison:
    """Runs the entries and keeps what was measured.

    Args:
        python: one that has PyTorch.
        cache: takes compiled programs and logs.
        save: called with the results whenever there are new ones.
    """

    def __init__(
        self, entries: list[Entry], limits: Limits, python: str, cache: Path, save: Callable[[], None]
    ):
        self.entries, self.limits, self.python = entries, limits, python
        self.save_results, self.saving = save, threading.Lock()
        self.started = time.monotonic()
        self.until = self.started + limits.budget
        self.results: dict[str, Any] = {}
        self.workers: dict[str, Worker] = {}
        self.folder = cache
        cache.mkdir(parents=True, exist_ok=True)
        device = os.environ.get('CUDA_VISIBLE_DEVICES', '0').split(',')[0]
        self.env = os.environ | {
            'CUDA_VISIBLE_DEVICES': device,
            'JAX_COMPILATION_CACHE_DIR': str(cache / 'jax'),
            'TORCHINDUCTOR_CACHE_DIR': str(cache / 'inductor'),
            # Several processes share the device.
            'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
            'XLA_CLIENT_MEM_FRACTION': '.95',
        }
        self.env.pop('XLA_PYTHON_CLIENT_MEM_FRACTION', None)  # JAX refuses both names

    def run(self) -> None:
        """Compiles and measures everything."""
        try:
            self._run()
        finally:
            for worker in self.workers.values():
                worker.close()

    def _run(self) -> None:
        self.compile_all()
        self.measure_matrix()
        groups: dict[tuple, list[Entry]] = {}
        for entry in self.entries:
            groups.setdefault((entry.late, entry.part, entry.config), []).append(entry)
        for late in (False, True):
            for key, group in groups.items():
                if key[0] == late:
                    self.attempt(group, self.until if late else None)
            if not late:
                self.measure_first_image()

    def attempt(self, group: list[Entry], until: float | None) -> None:
        """`measure_group`, whose failure must not cost the rows of other groups."""
        try:
            self.measure_group(group, until)
        except Exception as error:
            traceback.print_exc()
            for entry in group:
                entry.failed({'error': f'{type(error).__name__}: {error}'})

    def say(self, text: str) -> None:
        print(f'[{time.monotonic() - self.started:4.0f} s] {text}', file=sys.stderr, flush=True)

    def save(self) -> None:
        with self.saving:
            self.save_results()

    def soon(self, share: float) -> float:
        """The moment after this share of the budget, or the end of all."""
        return min(self.until, time.monotonic() + max(60.0, share * self.limits.budget))

    def worker(self, entry: Entry) -> Worker:
        """The process of a row, which is started if there is none."""
        if entry.label not in self.workers:
            name = re.sub(r'\W+', '-', entry.label)
            module, python = ('ours', '') if entry.ours else ('authors', self.python)
            log = self.folder / f'{name}.log'
            self.workers[entry.label] = Worker(f'benchmarking.{module}', entry.job, self.env, log, python)
        return self.workers[entry.label]

    def close(self, entry: Entry) -> None:
        if entry.label in self.workers:
            self.workers.pop(entry.label).close()

    def compile_all(self) -> None:
        """Fills the caches; what does not compile in time is given up."""
        until = self.soon(COMPILING)

        def compile_one(entry: Entry) -> None:
            worker = self.worker(entry)
            answer = entry.answers['compile'] = worker.ask(until, 'compile' if entry.ours else 'load')
            if time.monotonic() > until:
                entry.error = 'not compiled in time'
            # Those that guide wait for their turn, and need not trace again. Training needs most of the
            # device's memory, of which JAX keeps what it took for autotuning: it starts again.
            if entry.part == 'train' or 'error' in answer:
                self.close(entry)
            elif not entry.ours:
                worker.ask(until, 'release')
            self.say(f'compiled: {entry.label} {answer.get("error", "")}')
            self.save()

        def count(entry: Entry) -> None:
            env = self.env | {'JAX_PLATFORMS': 'cpu'}
            worker = Worker('benchmarking.ours', entry.job, env, self.folder / 'flops.log')
            entry.answers['flops'] = worker.ask(until, 'count')
            worker.close()

        compiled = [entry for entry in self.entries if entry.compiles]
        counted = [entry for entry in compiled if entry.ours and entry.part == 'train']
        with ThreadPoolExecutor(self.limits.jobs) as pool:
            tasks = [pool.submit(compile_one, entry) for entry in compiled]
            tasks += [pool.submit(count, entry) for entry in counted]
        for task in tasks:
            task.result()

    def measure_matrix(self) -> None:
        worker = Worker('benchmarking.ours', {'part': 'matrix'}, self.env, self.folder / 'matrix.log')
        self.results['matrix'] = worker.ask(self.soon(LOADING), 'matrix')
        worker.close()
        self.say(f'matrix product: {self.results["matrix"]}')
        self.save()

    def measure_group(self, group: list[Entry], until: float | None = None) -> None:
        """Times the programs of one part of a config, in turn as far as they fit on the device together."""
        if time.monotonic() > self.until:
            for entry in group:
                entry.error = entry.error or 'no time left'
            self.save()
            return
        until = until or self.soon(LOADING)
        group = [entry for entry in group if not entry.error]
        try:
            together, alone = self.load_together(group, until)
            self.time(together)
            for entry in together:
                self.close(entry)
            for entry in alone:
                answer = entry.answers['load'] = self.worker(entry).ask(self.soon(LOADING), 'load')
                if not entry.failed(answer):
                    self.time([entry])
                self.close(entry)
        finally:
            for entry in group:
                self.close(entry)

    def load_together(self, group: list[Entry], until: float) -> tuple[list[Entry], list[Entry]]:
        """The entries that are loaded, and those for which there is no memory now.

        The authors' are loaded first: how much memory PyTorch takes is known only then.
        """
        loaded, alone, left = [], [], float('inf')
        for entry in group:
            self.worker(entry).send('compile' if entry.ours else 'load')
        for entry in group:
            if not entry.ours and self.note(entry, 'load', until, alone):
                loaded.append(entry)
                left = min(left, entry.answers['load']['free_bytes'] or left)
        fitting = []
        for entry in group:
            if not entry.ours or not self.note(entry, 'compile_again', until, alone):
                continue
            left -= MARGIN * (entry.answers['compile_again']['memory_bytes'] or 0)
            if left < 0:
                alone.append(entry)
            else:
                fitting.append(entry)
                self.worker(entry).send('load')
        loaded += [entry for entry in fitting if self.note(entry, 'load', until, alone)]
        return sorted(loaded, key=group.index), sorted(alone, key=group.index)

    def note(self, entry: Entry, name: str, until: float, alone: list[Entry]) -> bool:
        """Waits for an answer and keeps it; whether it is no error. What had no memory is tried `alone`."""
        answer = entry.answers[name] = self.worker(entry).answer(until)
        if answer.get('memory'):
            alone.append(entry)
            return False
        failed = entry.failed(answer)
        self.say(f'{name}: {entry.label} {entry.error}')
        return not failed

    def time(self, entries: list[Entry]) -> None:
        """Calls programs in turn, then profiles ours."""
        running = list(entries)
        for _ in range(-(-self.limits.repeats // CALLS)):
            for entry in list(running):
                answer = self.worker(entry).ask(self.until, 'time', calls=CALLS)
                if entry.failed(answer):
                    running.remove(entry)
                    continue
                entry.how = 'in turn' if len(entries) > 1 else 'alone'
                entry.seconds += answer.pop('seconds')
                entry.overflows += CALLS - answer.get('updates', CALLS)
                entry.answers['time'] = answer
            self.save()
        for entry in running:
            self.say(f'timed: {entry.label} {1000 * statistics.median(entry.seconds):.1f} ms')
            if entry.ours:
                entry.answers['profile'] = self.worker(entry).ask(self.soon(LOADING), 'profile')
        self.save()

    def measure_first_image(self) -> None:
        """Seconds until a new process has made a guided image, with an empty cache and with a full one."""
        job = {key: self.entries[0].job[key] for key in ('config', 'settings')}
        found = self.results['first_image'] = {'config': self.entries[0].config}
        with tempfile.TemporaryDirectory() as cache:
            env = self.env | {'JAX_COMPILATION_CACHE_DIR': cache}
            for name in ('cold', 'again'):
                found[name] = measured(job, env, self.folder / 'first_image.log', self.until)
                self.say(f'first image, {name}: {found[name]}')
                self.save()

    def report(self) -> dict[str, Any]:
        """Everything that is known so far, as JSON can hold it, without paths of this machine."""
        rows = [asdict(entry) for entry in self.entries]
        for row in rows:
            row['job'] = {key: value for key, value in row['job'].items() if key not in ('config', 'path')}
        return self.results | {'seconds': time.monotonic() - self.started, 'rows': rows}
