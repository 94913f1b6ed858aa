"""Classes by name: which label a name stands for, and how names are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffusion_jax.errors import UserError

MOST_SHOWN = 8


def label_of(name: str, classes: Sequence[Sequence[str]]) -> int:
    """The label of the class with this name, or of the only class that has it as a part of a name.

    Args:
        name: upper and lower case are the same, unless classes differ in nothing else.
        classes: the names of each class, in label order. Its first name takes precedence over the others.

    Raises:
        UserError: no class matches, or several do; the message lists them.
    """
    wanted = name.lower().strip()
    tests: tuple[Callable[[Sequence[str]], bool], ...] = (
        lambda words: name == words[0],
        lambda words: wanted == words[0].lower(),
        lambda words: wanted in (word.lower() for word in words),
        lambda words: any(wanted in word.lower() for word in words),
    )
    for matches in tests:
        labels = [label for label, words in enumerate(classes) if matches(words)]
        if len(labels) == 1:
            return labels[0]
        if labels:
            found = shown([f'{classes[label][0]} ({label})' for label in labels])
            raise UserError(f'{name!r} matches {len(labels)} classes; choose one: {found}')
    raise UserError(f'{name!r} is no class; the classes are {shown([words[0] for words in classes])}')


def shown(names: Sequence[str]) -> str:
    """The first names and the number of the others, in one line."""
    more = f' and {len(names) - MOST_SHOWN} more' if len(names) > MOST_SHOWN else ''
    return ', '.join(names[:MOST_SHOWN]) + more


def check_same_classes(where: str, names: Sequence[str], other: str, others: Sequence[str]) -> None:
    """UserError where both have names and these differ.

    where, other: what the names are of, for the message.
    """
    if not names or not others or tuple(names) == tuple(others):
        return
    if len(names) != len(others):
        difference = f'{len(names)} classes ({shown(names)}), not {len(others)} ({shown(others)})'
    else:
        pairs = list(zip(names, others, strict=True))
        label = next(label for label, (one, two) in enumerate(pairs) if one != two)
        difference = f'class {label} is {pairs[label][0]!r}, not {pairs[label][1]!r}'
    raise UserError(f'{where}: its classes are not those of {other}: {difference}')
