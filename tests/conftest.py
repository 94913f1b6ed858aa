"""What all tests share: eight CPU devices, a compilation cache that outlives the run, and fixed examples."""

import gc
import logging
import os
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import settings

# JAX reads these when it is imported; what the shell sets goes first. Programs that tests start inherit them.
# Eight devices cost the tests of one device nothing: all share the same threads.
CACHE = Path(__file__).parent.parent / '.cache' / 'jax'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_NUM_CPU_DEVICES', '8')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(CACHE))
# Most of the time goes to compiling networks too small for optimised code to pay: this saves two thirds.
FLAGS = [
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_cpu_parallel_codegen_split_count=1',
    '--xla_backend_extra_options=xla_cpu_disable_loop_unrolling,xla_cpu_optimize_for_size,xla_cpu_disable_slp_vectorizer',
]
if version('jaxlib').startswith('0.10.'):  # a version that does not know a flag stops
    FLAGS += ['--xla_cpu_use_fusion_emitters=false', '--xla_cpu_prefer_vector_width=128']
os.environ.setdefault('XLA_FLAGS', ' '.join(FLAGS))
os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')  # nobody reads where an operation comes from
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')

gc.set_threshold(200_000, 20, 100)  # tracing makes many objects, and few of them are garbage

settings.register_profile('fixed', derandomize=True, deadline=None)
settings.load_profile('fixed')


@pytest.fixture(autouse=True)
def _logging_as_at_the_start():
    """The program, run in an earlier test, has turned its messages to a stderr that pytest closed since."""
    logger = logging.getLogger('diffusion_jax')
    logger.level, logger.propagate, logger.handlers = logging.NOTSET, True, []


@pytest.fixture(scope='module', autouse=True)
def _few_memory_maps():
    """Drop compiled programs in time: each takes memory maps, and Linux gives a process 65,530 of them.

    A process at that limit crashes where it next compiles; the programs come back from the cache on disk.
    """
    yield
    maps = Path('/proc/self/maps')
    if maps.exists() and len(maps.read_bytes().splitlines()) > 20_000:
        import jax  # not before the settings above

        jax.clear_caches()
