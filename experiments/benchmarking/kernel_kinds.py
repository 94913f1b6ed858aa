"""Where the time of a call goes: kernels of jax.profiler's trace, by kind."""

import collections
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

# The first pattern that a kernel's name contains gives its kind. Names are those of cuDNN, cuBLAS, CUTLASS
# and XLA. In a name of cuBLAS 'sgemm' is a product on CUDA cores, 's16816gemm' one on tensor cores.
CUDA_CORES = r'simt|ffma|scudnn|(^|[^a-z0-9])sgemm|f32f32_f32f32'
CONVOLUTION = r'conv|fprop|dgrad|wgrad|winograd|cudnn.*(engine|conv)|implicit_gemm|cask__\w*cudnn'
KINDS = {
    'convolutions and products by YNNPACK': r'^ynn_',  # on a CPU, with what is fused into them
    'attention': r'sdpa|flash|fmha|softmax|attention',
    'copies, concatenations, transposes': (
        r'memcpy|memset|nchw_?to_?nhwc|nhwc_?to_?nchw|transpose|concatenate|copy|(^|_)(pad|slice|gather)'
    ),
    'float32 convolutions on CUDA cores': rf'(?=.*({CONVOLUTION}))(?=.*({CUDA_CORES}))',
    'convolutions': rf'(?!.*convert)({CONVOLUTION})|(?=.*convert)(fprop|dgrad|wgrad|convolution)',
    'float32 matrix products on CUDA cores': rf'({CUDA_CORES})',
    'matrix products': r'gemm|gemv|nvjet|cublas|cutlass|(^|_)dot|matmul|splitk',
    'reductions, normalization': r'reduce|norm|(^|_)(mean|sum|var)',
    'elementwise': r'fusion|wrapped|loop|convert|broadcast|add|multiply|select|exp|rng|iota|triton',
}
OTHER = 'other'
SLOWEST = 40  # kernels that are listed by name


def kind_of(kernel: str) -> str:
    """The kind of a kernel by its name."""
    name = kernel.lower()
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), OTHER)


def profiled(call: Callable[[], float], steps: int) -> dict[str, Any]:
    """Milliseconds of the device in one step, by kind and by kernel.

    Args:
        call: runs a program of several steps, waits for it, and returns the seconds of a step.
        steps: the number of steps of a call.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder, profiler_options=options)
        try:
            seconds = call()
        finally:
            jax.profiler.stop_trace()
        (file,) = Path(folder).rglob('*.xplane.pb')
        kernels = list(_kernels(jax.profiler.ProfileData.from_file(str(file))))
    kinds, names = collections.Counter(), collections.Counter()
    for name, milliseconds in kernels:
        kinds[kind_of(name)] += milliseconds / steps
        names[name] += milliseconds / steps
    slowest = [
        {'kernel': name, 'kind': kind_of(name), 'milliseconds': value}
        for name, value in names.most_common(SLOWEST)
    ]
    return {'step_milliseconds': 1000 * seconds, 'kinds': dict(kinds.most_common()), 'kernels': slowest}


def _kernels(profile: Any) -> Iterator[tuple[str, float]]:
    """Name and milliseconds of every kernel: of a GPU's streams, or of XLA's threads on a CPU."""
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith('/device:GPU')]
    for plane in devices or planes:
        lines = list(plane.lines)
        # Other lines of a GPU have the same time again, by module and by operation.
        kernels = [line for line in lines if line.name.startswith('Stream' if devices else 'tf_XLA')]
        for line in kernels or (lines if devices else ()):
            for event in line.events:
                # On a CPU a loop is an event that contains others, and names of no operation have spaces.
                if devices or re.fullmatch(r'(?!while|call|conditional)[\w.-]+', event.name):
                    yield event.name, event.duration_ns / 1e6
