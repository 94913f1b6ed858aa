"""How far bfloat16 is from float32: outputs, and gradients to parameters and image, of whole networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import models

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

# Norm of the difference, relative to float32: of the output, the gradient to parameters, and to the image.
LIMITS = {}


def errors(network):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        values = rng.standard_normal(leaf.shape).astype(np.float32)
        if leaf.ndim > 1:
            return values * np.prod(leaf.shape[:-1]) ** -0.5
        return 0.1 * values + (path[-1].key == 'scale')

    params = jax.tree_util.tree_map_with_path(draw, models.param_shapes(network))
    x = jnp.asarray(rng.standard_normal((4, 32, 32, 3)), jnp.float32)
    t, y = jnp.array([0, 10, 300, 999]), jnp.arange(4)
    low_res = x[:, ::2, ::2] if getattr(network, 'low_res', False) else None
    labels = y if isinstance(network, models.UNetConfig) and network.num_classes else None

    def run(dtype):
        config = dataclasses.replace(network, dtype=dtype)

        def loss(params, x):
            output = models.apply(config, params, x, t, labels, low_res=low_res)
            target = np.random.default_rng(1).standard_normal(output.shape)
            return jnp.mean((output - target) ** 2), output

        (_, output), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)
        return output, *gradients

    return tuple(map(distance, run('bfloat16'), run('float32')))


def distance(tree, reference):
    def norm(tree):
        return jnp.sqrt(sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(tree)))

    return float(norm(jax.tree.map(jnp.subtract, tree, reference)) / norm(reference))


if __name__ == '__main__':
    for name, network in NETWORKS.items():
        print(f'    {name!r}: ({", ".join(f"{e:.5f}" for e in errors(network))}),')
