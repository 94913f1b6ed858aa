"""The 1,000 classes of ImageNet by name, in the order of their labels: that of the sorted WordNet numbers.

The names are those of WordNet 3.0 (© 2006 Princeton University), one class a line of imagenet.txt, the
commonest name first.
"""

from __future__ import annotations

import functools
from importlib import resources

from diffusion_jax.errors import UserError

SUGGESTIONS = 8


@functools.cache
def class_names() -> tuple[str, ...]:
    """The first name of every class: class_names()[207] is 'golden retriever'."""
    return tuple(names[0] for names in _names())


def label_of(name: str) -> int:
    """The label of the class that bears a name, or that alone has it as a part of its name.

    Upper and lower case are the same. A first name goes before others: 'panda' names two classes, and neither
    bears it first.

    Raises:
        UserError: no class, or several of them; the message lists which.
    """
    wanted = name.lower().strip()
    for matches in (
        lambda names: wanted == names[0].lower(),
        lambda names: wanted in (each.lower() for each in names),
        lambda names: any(wanted in each.lower() for each in names),
    ):
        labels = [label for label, names in enumerate(_names()) if matches(names)]
        if len(labels) == 1:
            return labels[0]
        if labels:
            listed = ', '.join(f'{class_names()[label]} ({label})' for label in labels[:SUGGESTIONS])
            more = f' and {len(labels) - SUGGESTIONS} more' if len(labels) > SUGGESTIONS else ''
            raise UserError(f'{name!r} names {len(labels)} classes of ImageNet; choose one: {listed}{more}')
    raise UserError(f'{name!r} names no class of ImageNet; see diffusion_jax/data/imagenet.txt')


@functools.cache
def _names() -> tuple[tuple[str, ...], ...]:
    text = resources.files('diffusion_jax.data').joinpath('imagenet.txt').read_text(encoding='utf-8')
    return tuple(tuple(line.split(', ')) for line in text.splitlines())
