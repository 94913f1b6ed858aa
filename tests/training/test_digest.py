import jax
import numpy as np

from diffusion_jax.sharding import make_mesh, param_shardings
from diffusion_jax.training.checkpoints import digest


def test_digests_see_every_bit_and_no_sharding():
    tree = {
        'a': jax.random.normal(jax.random.key(0), (64, 128)),
        'b': jax.numpy.arange(7),
        'key': jax.random.key(3),
    }
    mesh = make_mesh(2, 4)
    spread = jax.device_put(tree, param_shardings(mesh, tree))
    assert digest(spread) == digest(tree)
    bits = np.array(tree['a']).view(np.uint32)
    for bit in (0, 13, 31):
        bits[17, 5] ^= np.uint32(1 << bit)
        assert digest(tree | {'a': bits.view(np.float32)})["['a']"] != digest(tree)["['a']"]
        bits[17, 5] ^= np.uint32(1 << bit)
    swapped = tree['a'].at[jax.numpy.asarray([0, 1])].set(tree['a'][jax.numpy.asarray([1, 0])])
    mirrored = (
        tree['a']
        .at[jax.numpy.asarray([2, 3]), jax.numpy.asarray([3, 2])]
        .set(tree['a'][jax.numpy.asarray([3, 2]), jax.numpy.asarray([2, 3])])
    )
    for changed in (swapped, mirrored, -tree['a'], tree['a'].at[3, 4].multiply(-1).at[50, 60].multiply(-1)):
        assert digest(tree | {'a': changed})["['a']"] != digest(tree)["['a']"]
