"""The table of names against the architecture, which the golden features hold to the released network."""

from diffusion_jax.evaluation.inception.plan import BLOCKS, STEM, Conv, Parallel
from diffusion_jax.evaluation.inception.scopes import SCOPES


def numbered(name, index):
    return f'{name}_{index}' if index else name


def scopes_of(chain, prefix):
    """TensorFlow numbers what has the same name within a scope; (port's name, scope) of each convolution."""
    convolutions = [step for step in chain if isinstance(step, Conv)]
    yield from ((conv.name, f'{prefix}{numbered("conv", i)}') for i, conv in enumerate(convolutions))
    for step in chain:
        if isinstance(step, Parallel):
            for i, branch in enumerate(step.chains):
                yield branch[0].name, f'{prefix}mixed/{numbered("conv", i)}'


def test_the_table_follows_from_the_architecture():
    expected = dict(scopes_of(STEM, ''))
    for i, (block, parallel) in enumerate(BLOCKS.items()):
        towers = 0
        for chain in parallel.chains:
            if not any(isinstance(step, Conv) for step in chain):
                continue
            prefix = f'{numbered("mixed", i)}/'
            if len(chain) > 1:
                prefix += f'{numbered("tower", towers)}/'
                towers += 1
            expected |= {f'{block}.{name}': scope for name, scope in scopes_of(chain, prefix)}
    assert expected == SCOPES
    assert len(SCOPES) == len(set(SCOPES.values())) == 94
