"""Whether two runs came to the same end, to the bit."""

from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from soaking.run import SETTINGS, Run


def arrays(checkpoint: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path."""
    found = {}
    for item in sorted(path for path in checkpoint.iterdir() if (path / 'manifest.ocdbt').exists()):
        tree = ocp.StandardCheckpointer().restore(item)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            leaf = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
            found[f'{item.name}{jax.tree_util.keystr(path)}'] = leaf
    return found


def same_arrays(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, bool]:
    """For every item of the two checkpoints, whether they hold the same arrays, to the bit."""

    def same(name: str) -> bool:
        one, other = ours.get(name), theirs.get(name)
        if one is None or other is None:
            return False
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())

    equal: dict[str, bool] = {}
    for name in sorted(ours | theirs):
        item = name.split('[')[0]
        equal[item] = equal.get(item, True) and same(name)
    return equal


def compare(run: Run, undisturbed: Run, step: int) -> dict[str, bool]:
    """What of the last step and of all metrics is equal, by name."""
    ours, theirs = (arrays(each.checkpoints / str(step)) for each in (run, undisturbed))
    one, other = run.results(), undisturbed.results()
    return same_arrays(ours, theirs) | {
        'position in the data': run.progress(step) == undisturbed.progress(step),
        'metrics': one == other and len(one) >= step // SETTINGS['train.log_every'],
    }
