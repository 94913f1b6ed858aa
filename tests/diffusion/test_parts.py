"""Parts as pytrees."""

import itertools

import jax
import pytest

from diffusion_jax.diffusion.guidance import GUIDANCES, ClassifierGuidance, Interval
from diffusion_jax.diffusion.parts import Number, Part, option, static
from diffusion_jax.diffusion.samplers import DDIM, SAMPLERS


class Scaled(Part):
    scale: Number = option(default=1.0)
    kind: str = static(default='a')


class AlsoScaled(Part):
    scale: Number = option(default=1.0)
    kind: str = static(default='a')


def test_structures_differ_by_class():
    """A jitted function is not given the program of another part that has the same fields."""
    kinds = [*SAMPLERS.values(), *(kind for kind in GUIDANCES.values() if kind.__name__ != 'MixtureGuidance')]
    structures = [jax.tree.structure(part()) for part in (*kinds, Scaled, AlsoScaled)]
    assert all(one != other for one, other in itertools.combinations(structures, 2))
    nested = Interval(ClassifierGuidance()), Interval(Scaled())
    assert jax.tree.structure(nested[0]) != jax.tree.structure(nested[1])


def test_numbers_are_leaves_and_everything_else_is_structure():
    part = Interval(ClassifierGuidance(3.0), low=0.5, high=2.0)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(part)]
    assert paths == ['.guidance.scale', '.low', '.high']
    assert jax.tree.map(lambda leaf: 2 * leaf, part) == Interval(ClassifierGuidance(6.0), 1.0, 4.0)
    assert jax.tree.structure(Scaled(2.0)) == jax.tree.structure(Scaled(3.0))
    assert jax.tree.structure(Scaled(kind='b')) != jax.tree.structure(Scaled())


def test_a_part_of_another_class_is_another_program():
    @jax.jit
    def name(part):
        return type(part).__name__ == 'AlsoScaled'

    assert [bool(name(part)) for part in (Scaled(), AlsoScaled(), Scaled())] == [False, True, False]


def test_parts_are_frozen():
    with pytest.raises(AttributeError):
        DDIM().eta = 1.0
