"""Makes the files of the present version, in a folder that holds a `config.py`.

python -m tests.versions.make tests/versions/2026-11-26
"""

import json
import os
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from diffusion_jax import main
from diffusion_jax.commands import convert
from diffusion_jax.training.saving import Checkpoints

STAGES = {'diffusion': 'train', 'classifier': 'train_classifier'}
RUN = Path('run')
ARGUMENTS = ['main', '--config=config.py', f'--workdir={RUN}']


def powers_of_two(leaf: jax.Array) -> jax.Array:
    """Floats rounded to powers of two, so that Orbax and Git compress them to a tenth."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    bits = jax.lax.bitcast_convert_type(leaf, jnp.int32)
    return jax.lax.bitcast_convert_type((bits + 0x400000) & ~0x7FFFFF, jnp.float32)


def save_rounded() -> None:
    """From here on checkpoints are written with rounded floats."""
    save = Checkpoints.save
    Checkpoints.save = lambda self, state, *rest: save(self, jax.tree.map(powers_of_two, state), *rest)


def losses_of_two_more_steps() -> dict[str, dict[str, float]]:
    """What training logs when a copy of the run is extended: network → step → loss."""
    longer = [f'--config.{stage}.num_steps=6' for stage in STAGES.values()]
    shutil.copytree(RUN, 'longer')
    check(main.main([*ARGUMENTS[:2], '--workdir=longer', f'--stage={",".join(STAGES.values())}', *longer]))
    logs = {name: (Path('longer') / name / 'metrics.jsonl').read_text().splitlines() for name in STAGES}
    shutil.rmtree('longer')
    lines = {name: [json.loads(line) for line in log[-2:]] for name, log in logs.items()}
    return {name: {str(line['step']): line['loss'] for line in last} for name, last in lines.items()}


def remove_traces() -> None:
    """Removes what no later run reads: TensorBoard's files, the lock, and the folder's path."""
    for path in [RUN / '.lock', *RUN.rglob('events.out.tfevents.*')]:
        path.unlink()
    for path in RUN.rglob('commit_success.txt'):  # Orbax reads only whether it exists
        path.write_text(path.read_text().replace(f'{Path.cwd()}/', ''))


def check(code: int) -> None:
    if code:
        sys.exit(code)


if __name__ == '__main__':
    os.chdir(sys.argv[1])
    save_rounded()
    check(main.main(ARGUMENTS))
    for name in STAGES:
        check(convert.main(['diffusion-jax convert', str(RUN / name), '--out', f'{name}.safetensors']))
    Path('losses.json').write_text(json.dumps(losses_of_two_more_steps(), indent=2) + '\n')
    remove_traces()
