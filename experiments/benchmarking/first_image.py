"""One guided image in a process of its own, as a notebook or the stage `sample` makes it.

Its argument is a job in JSON: `config` and `settings`. Prints the seconds of each part but the imports. The
parameters are random numbers: a file of weights is not read.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
from benchmarking.programs import drawn_params, read
from benchmarking.workers import Worker

from diffusion_jax.generation.generator import Generator
from diffusion_jax.sharding import make_mesh, replicated


def main(job: dict[str, Any]) -> dict[str, float]:
    """Seconds for parameters on the device, for the first steps with all compilation, and for the others."""
    experiment = read(job['config'], job['settings'])
    started = time.perf_counter()
    mesh = make_mesh(devices=jax.local_devices()[:1])
    unet, classifier = experiment.unet, experiment.classifier
    params = {'diffusion': drawn_params(unet), 'classifier': drawn_params(classifier)}
    params = jax.block_until_ready(jax.device_put(params, replicated(mesh)))
    loaded, marks = time.perf_counter(), []
    recipes = (('config', experiment.sample.as_recipe()),)
    model = Generator(unet, experiment.diffusion, params, mesh, classifier, recipes)
    model.sample(1, 0, progress=lambda done, steps: marks.append(time.perf_counter()))
    ended, compiled = time.perf_counter(), marks[1]  # at the second mark the first steps are complete
    return {'parameters': loaded - started, 'compile': compiled - loaded, 'steps': ended - compiled}


def measured(job: dict[str, Any], env: dict[str, str], log: Path, until: float) -> dict[str, Any]:
    """Seconds of `main` in a new process, with those from its start to its end and those for imports."""
    started = time.monotonic()
    worker = Worker('benchmarking.first_image', job, env, log)
    answer = worker.answer(until)
    total = time.monotonic() - started
    worker.close()
    return answer if 'error' in answer else answer | {'total': total, 'imports': total - sum(answer.values())}


if __name__ == '__main__':
    print(json.dumps(main(json.loads(sys.argv[1]))))
