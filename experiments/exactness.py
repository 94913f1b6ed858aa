"""Compare what posterior methods sample with exact posteriors: the table of docs/exactness.md.

    python -m experiments.exactness    # a minute on 2 CPU cores; rewrites the table of that page

The methods, their settings and the two problems are those of tests/diffusion/inverse/laws.py.
"""

import re
from pathlib import Path

from diffusion_jax.diffusion.samplers.loop import evaluations
from tests.diffusion.inverse.laws import bias, grid_of, methods, mixture, mode_weights, model

PAGE = Path(__file__).parent.parent / 'docs' / 'exactness.md'
HEADER = [
    'method',
    'evaluations',
    'Gaussian: error of the mean',
    'Gaussian: ratio of variances',
    'mixture: weights of the modes, %',
]


def row(name: str) -> list[str]:
    (mean, other), (variance, other_variance) = bias(name)
    weights, _ = mode_weights(name)
    number = evaluations(methods(model())[name].sampler, grid_of(name))
    return [
        f'{name}',
        f'{number}',
        f'{mean:.2f} / {other:.2f}',
        f'{variance:.2f} / {other_variance:.2f}',
        ' / '.join(f'{100 * weight:.0f}' for weight in weights),
    ]


def table() -> str:
    """As Markdown."""
    exact = ['**the posterior**', '', '0 / 0', '1 / 1', '']
    exact[-1] = ' / '.join(f'{100 * weight:.0f}' for weight in mixture().posterior(1.0)[0])
    rows = [HEADER, ['---'] * len(HEADER), exact, *(row(name) for name in methods(model()))]
    return '\n'.join('| ' + ' | '.join(cells).replace('p(y|x_t)', r'p(y\|x_t)') + ' |' for cells in rows)


def main() -> None:
    made = table()
    text = re.sub(r'^\| method \|.*?(?=\n\n)', lambda _: made, PAGE.read_text(), count=1, flags=re.M | re.S)
    PAGE.write_text(text)
    print(made)


if __name__ == '__main__':
    main()
