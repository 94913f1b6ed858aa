"""One of this project's programs in a process of its own, which `comparison` starts and asks.

Its argument is a job in JSON: `config` and `settings` as on the command line, `batch_size`, `part`, and
`half` for both networks in bfloat16.
"""

import json
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from benchmarking.kernel_kinds import profiled
from benchmarking.measuring import Compiled, Running, compile_case, count_flops
from benchmarking.programs import Setup, cases, read, with_networks
from benchmarking.protocol import serve

from diffusion_jax.sharding import make_mesh

MATRIX_CALLS = 20


class Ours:
    """The answers; the first to be asked for is `compile`."""

    def __init__(self, job: dict[str, Any]):
        experiment = read(job['config'], job['settings'])
        experiment = with_networks(experiment, dtype='bfloat16') if job['half'] else experiment
        mesh = make_mesh(devices=jax.local_devices()[:1])
        self.case = cases(experiment)[job['part']](Setup(experiment, mesh, job['batch_size']))
        self.compiled: Compiled | None = None
        self.running: Running | None = None

    def compile(self) -> dict[str, Any]:
        """Compiles, or loads from the compilation cache; nothing large is put on the device."""
        self.compiled = self.compiled or compile_case(self.case)
        return {
            'trace_seconds': self.compiled.trace_seconds,
            'compile_seconds': self.compiled.compile_seconds,
            'memory_bytes': self.compiled.memory_bytes,
        }

    def count(self) -> dict[str, Any]:
        """FLOPs of a call."""
        return {'flops': count_flops(self.case)}

    def load(self) -> dict[str, Any]:
        """Puts the arguments on the device, and calls the program once."""
        self.running = None
        self.running = Running(self.case, self.compiled)
        return {'first_call_seconds': self.running.seconds()}

    def time(self, calls: int) -> dict[str, Any]:
        """Times `calls` calls, after one that is not timed: another program may have run before."""
        self.running.seconds()
        return {'seconds': [self.running.seconds() for _ in range(calls)]}

    def profile(self) -> dict[str, Any]:
        """Time of the device by kind of kernel in one step."""
        return profiled(self.running.seconds, self.running.steps)


def matrix_rate(size: int = 8192) -> dict[str, Any]:
    """FLOP/s of a product of two bfloat16 matrices, [size, size]; they are small on a CPU."""
    size = 512 if jax.default_backend() == 'cpu' else size
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(x, x))
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready([product(x, x) for _ in range(MATRIX_CALLS)])
        rates.append(MATRIX_CALLS * 2 * size**3 / (time.perf_counter() - start))
    device = jax.devices()[0]
    return {
        'size': size,
        'flops_per_second': statistics.median(rates),
        'device': device.device_kind,
        'platform': device.platform,
        'jax': jax.__version__,
    }


if __name__ == '__main__':
    job = json.loads(sys.argv[1])
    if job['part'] == 'matrix':
        serve({'matrix': matrix_rate})
    else:
        ours = Ours(job)
        serve({name: getattr(ours, name) for name in ('compile', 'count', 'load', 'time', 'profile')})
