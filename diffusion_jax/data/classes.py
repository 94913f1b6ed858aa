"""Classes by name: which label a name stands for, and how names are listed."""

from collections.abc import Callable, Sequence

from diffusion_jax.errors import UserError

MOST_SHOWN = 8


def label_of(name: str, classes: Sequence[Sequence[str]]) -> int:
    """The label of the class with this name, or of the only class that has it as a part of a name.

    Args:
        name: case is ignored, unless classes differ in nothing else.
        classes: the names of each class, in label order. Its first name takes precedence over the others.

    Raises:
        UserError: no class matches, or several do; the message lists them.
    """
    wanted = name.lower().strip()
    tests: tuple[Callable[[Sequence[str]], bool], ...] = (
        lambda names: name == names[0],
        lambda names: wanted == names[0].lower(),
        lambda names: wanted in (each.lower() for each in names),
        lambda names: any(wanted in each.lower() for each in names),
    )
    for matches in tests:
        labels = [label for label, names in enumerate(classes) if matches(names)]
        if len(labels) == 1:
            return labels[0]
        if labels:
            candidates = listed([f'{classes[label][0]} ({label})' for label in labels])
            raise UserError(repr(name), f'matches {len(labels)} classes', f'choose one: {candidates}')
    raise UserError(repr(name), 'is no class', f'the classes are {listed([names[0] for names in classes])}')


def listed(names: Sequence[str]) -> str:
    """The first names and the number of the others, in one line."""
    more = f' and {len(names) - MOST_SHOWN} more' if len(names) > MOST_SHOWN else ''
    return ', '.join(names[:MOST_SHOWN]) + more


def check_same_classes(where: str, names: Sequence[str], other: str, others: Sequence[str]) -> None:
    """Raises UserError where both have names and these differ.

    where, other: what the names are of, for the message.
    """
    if not names or not others or tuple(names) == tuple(others):
        return
    if len(names) != len(others):
        difference = f'{len(names)} classes ({listed(names)}), not {len(others)} ({listed(others)})'
    else:
        pairs = list(zip(names, others, strict=True))
        label = next(label for label, (one, two) in enumerate(pairs) if one != two)
        difference = f'class {label} is {pairs[label][0]!r}, not {pairs[label][1]!r}'
    raise UserError(where, f'its classes are not those of {other}: {difference}')
