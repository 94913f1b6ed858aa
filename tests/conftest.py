"""What all tests share: eight CPU devices, a compilation cache that outlives the run, and fixed examples."""

import os
from pathlib import Path

from hypothesis import settings

# JAX reads these when it is imported; what the shell sets goes first. Programs that tests start inherit them.
# Eight devices cost the tests of one device nothing: all share the same threads.
CACHE = Path(__file__).parent.parent / '.cache' / 'jax'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_NUM_CPU_DEVICES', '8')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(CACHE))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')

settings.register_profile('fixed', derandomize=True, deadline=None)
settings.load_profile('fixed')
