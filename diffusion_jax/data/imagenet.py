"""The 1,000 classes of ImageNet by name, in the order of their labels: that of the sorted WordNet numbers.

The names are those of WordNet 3.0 (© 2006 Princeton University), one class a line of imagenet.txt, the
most common name first.
"""

import functools
import zlib
from collections.abc import Sequence
from importlib import resources

WORDNET_NUMBERS = 0x0642A78E  # CRC-32 of 'n01440764\nn01443537\n…', one number a class, in label order


def class_names() -> tuple[str, ...]:
    """The first name of every class: class_names()[207] is 'golden retriever'. No two classes share one."""
    return tuple(names[0] for names in all_names())


@functools.cache
def all_names() -> tuple[tuple[str, ...], ...]:
    """All names of every class, the first name first."""
    text = resources.files('diffusion_jax.data').joinpath('imagenet.txt').read_text(encoding='utf-8')
    return tuple(tuple(line.split(', ')) for line in text.splitlines())


def readable(names: Sequence[str]) -> tuple[str, ...]:
    """The names of classes in label order; in words where they are ImageNet's 1,000 WordNet numbers."""
    is_imagenet = zlib.crc32('\n'.join(names).encode()) == WORDNET_NUMBERS
    return class_names() if is_imagenet else tuple(names)


def synonyms(names: Sequence[str]) -> Sequence[Sequence[str]]:
    """All names of each of these classes, for `classes.label_of`; only ImageNet's have more than one."""
    return all_names() if tuple(names) == class_names() else [(name,) for name in names]
