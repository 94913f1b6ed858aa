"""The program as its users run it, on the digits with the smallest networks; and what it leaves."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from diffusion_jax import main
from diffusion_jax.command_line import parse_flags
from diffusion_jax.config import read_experiment

ROOT = Path(__file__).parent.parent
TINY = {
    'diffusion.num_timesteps': 50,
    'train.num_steps': 6,
    'train.batch_size': 16,
    'train.warmup_steps': 0,
    'train.log_every': 2,
    'train.sample_every': 3,
    'train.evaluate_every': 3,
    'train.evaluate_samples': 20,
    'train.checkpoint_every': 3,
    'train_classifier.num_steps': 4,
    'train_classifier.batch_size': 16,
    'train_classifier.log_every': 2,
    'train_classifier.validate_every': 2,
    'sample.sampler': 'ddim',
    'sample.respacing': '5',
    'sample.num_samples': 20,
    'sample.batch_size': 16,
} | {
    f'{network}.{key}': value
    for network in ('unet', 'classifier')
    for key, value in {'channel_mult': '(1,)', 'num_res_blocks': 1, 'attention_resolutions': '()'}.items()
}
# The program, with a pause after every line of metrics, so that there is time to interrupt it.
SLOW_MAIN = """
import sys, time
from diffusion_jax import main
from diffusion_jax.training import loop
scalars = loop.MetricsWriter.scalars
loop.MetricsWriter.scalars = lambda *args: (scalars(*args), time.sleep(3))
sys.exit(main.main())
"""


def arguments(workdir, stage='', **changes):
    settings = TINY | {key.replace('__', '.'): value for key, value in changes.items()}
    flags = [f'--config.{key}={value}' for key, value in settings.items()]
    stages = [f'--stage={stage}'] if stage else []
    return ['main', f'--config={ROOT / "configs" / "digits.py"}', f'--workdir={workdir}', *stages, *flags]


def experiment(**changes):
    """The experiment that `run` runs."""
    return read_experiment(parse_flags(arguments('unused', **changes)).config)


def run(workdir, stage='', **changes):
    return main.main(arguments(workdir, stage, **changes))


@functools.cache
def leaves(checkpoint):
    """Every array of a checkpoint by its path, whatever devices wrote it."""
    arrays = {}
    for item in ('params', 'ema_0.995', 'training'):
        path = Path(checkpoint) / item
        if path.is_dir():
            tree = ocp.StandardCheckpointer().metadata(path).item_metadata.tree
            args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            tree = ocp.PyTreeCheckpointer().restore(path, args=ocp.args.PyTreeRestore(restore_args=args))
            flat = jax.tree_util.tree_flatten_with_path(tree)[0]
            arrays |= {item + jax.tree_util.keystr(key): leaf for key, leaf in flat}
    return arrays


def logged(directory):
    """The lines of the log, without what they say of time and memory."""
    lines = [json.loads(line) for line in (directory / 'metrics.jsonl').read_text().splitlines()]
    results = [{name: value for name, value in line.items() if '/' not in name} for line in lines]
    return [line for line in results if line.keys() != {'step'}]


def assert_same_end(workdir, finished, step=6):
    """The last checkpoint and the metrics are those of a run that was never interrupted."""
    ours, theirs = (leaves(each / 'diffusion' / 'checkpoints' / str(step)) for each in (workdir, finished))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    lines = [logged(each / 'diffusion') for each in (workdir, finished)]
    assert lines[0] == lines[1]
