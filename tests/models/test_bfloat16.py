"""The error of bfloat16 in complete networks: outputs, and gradients to parameters and image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import models
from tests.tiers import fast_for

SMALL = {'image_size': (32, 32), 'model_channels': 64, 'channel_mult': (1, 2), 'attention_resolutions': (16,)}

NETWORKS = {
    'unet': models.UNetConfig(**SMALL, num_classes=10),
    'plain unet': models.UNetConfig(
        **SMALL, num_res_blocks=1, num_head_channels=None, scale_shift_norm=False, resblock_updown=False
    ),
    'upsampler': models.UNetConfig(**SMALL, num_res_blocks=1, low_res=True, rescale_residual=True),
    **{
        f'classifier, {pool}': models.ClassifierConfig(**SMALL, num_res_blocks=1, num_classes=10, pool=pool)
        for pool in ('attention', 'adaptive', 'spatial', 'spatial_v2')
    },
}

# Norm of the difference relative to float32's: of the output, the gradient to parameters, and to the image.
# Recorded on 26 November 2026, before normalization and attention had derivatives of their own.
RECORDED = {
    'unet': (0.0121, 0.0138, 0.0189),
    'plain unet': (0.0100, 0.0143, 0.0151),
    'upsampler': (0.0134, 0.0169, 0.0289),
    'classifier, attention': (0.0047, 0.0326, 0.0190),
    'classifier, adaptive': (0.0036, 0.0331, 0.0176),
    # Its ReLU is on in one dtype and off in the other for some units: its gradients' errors change by a fifth
    # with how the compiler rounds.
    'classifier, spatial': (0.0040,),
    'classifier, spatial_v2': (0.0044, 0.0281, 0.0162),
}
CHANCE = 1.06  # three sets of random parameters, and how the compiler rounds
SEEDS = 3


def errors(network):
    """The mean of SEEDS errors, whose parameters and inputs are random; no parameter is zero."""
    low_res, labels = getattr(network, 'low_res', False), getattr(network, 'out_channels', 0)

    def gradients(dtype):
        config = dataclasses.replace(network, dtype=dtype)

        def loss(params, x, target):
            y = jnp.arange(4) if labels and network.num_classes else None
            t = jnp.array([0, 10, 300, 999])
            small = x[:, ::2, ::2] if low_res else None
            output = models.apply(config, params, x, t, y, low_res=small)
            return jnp.mean((output - target) ** 2), output

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))

    half, full = gradients('bfloat16'), gradients('float32')
    outputs = (32, 32, network.out_channels) if labels else (network.num_classes,)
    total = np.zeros(3)
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        arguments = (
            random_params(network, rng),
            rng.normal(size=(4, 32, 32, 3)),
            rng.normal(size=(4, *outputs)),
        )
        found = [(output, *grads) for (_, output), grads in (half(*arguments), full(*arguments))]
        total += [distance(*pair) for pair in zip(*found, strict=True)]
    return total / SEEDS


FAST = ('classifier, attention',)


@pytest.mark.parametrize('name', fast_for(NETWORKS, FAST))
def test_bfloat16_is_no_farther_from_float32_than_before(name):
    found = errors(NETWORKS[name])
    assert (found > 1e-3).all()
    limits = CHANCE * np.array(RECORDED[name])
    assert (found[: len(limits)] <= limits).all(), found


def random_params(network, rng):
    def draw(path, leaf):
        values = rng.standard_normal(leaf.shape).astype(np.float32)
        if leaf.ndim > 1:
            return values * np.float32(np.prod(leaf.shape[:-1]) ** -0.5)
        return 0.1 * values + np.float32(path[-1].key == 'scale')

    return jax.tree_util.tree_map_with_path(draw, models.param_shapes(network))


def distance(tree, reference):
    def norm(tree):
        return jnp.sqrt(sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(tree)))

    return float(norm(jax.tree.map(jnp.subtract, tree, reference)) / norm(reference))


if __name__ == '__main__':
    for name, network in NETWORKS.items():
        print(f'    {name!r}: ({", ".join(f"{e:.4f}" for e in errors(network))}),', flush=True)
