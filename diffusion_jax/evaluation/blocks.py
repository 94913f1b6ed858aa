"""Features in blocks of one shape, so that all pairs of blocks pass through one compiled function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 1024


def blocks(rows: np.ndarray, *, shift: np.ndarray | float = 0.0, fill: float = 0.0) -> list[jax.Array]:
    """rows − shift [N, ...] as float32 arrays of BLOCK rows, the last filled up."""
    cut = [np.float32(rows[start : start + BLOCK] - shift) for start in range(0, len(rows), BLOCK)]
    missing = BLOCK - len(cut[-1])
    cut[-1] = np.pad(cut[-1], [(0, missing)] + [(0, 0)] * (rows.ndim - 1), constant_values=fill)
    return [jnp.asarray(block) for block in cut]


def joined(blocks: list[jax.Array], num_rows: int) -> np.ndarray:
    """The rows of blocks in float64, without what filled up the last."""
    return np.concatenate([np.asarray(block, np.float64) for block in blocks])[:num_rows]


def squared_norms(blocks: list[jax.Array], num_rows: int) -> np.ndarray:
    """float64 [num_rows]."""
    return joined([np.sum(np.square(block, dtype=np.float64), axis=1) for block in blocks], num_rows)


def products(u: jax.Array, v: jax.Array) -> jax.Array:
    """[BLOCK, BLOCK]: each row of u times each row of v, in full float32 on every device."""
    return jnp.matmul(u, v.T, precision='highest')
