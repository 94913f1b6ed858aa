"""The results of a comparison as Markdown."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

NO_GPU = 'This ran on a CPU, on which PyTorch is very slow in float16: the ratios mean nothing.'
PARTS = {'guided_step': 'guided DDPM step', 'train': 'training step'}


def markdown(report: dict[str, Any]) -> str:
    """All tables of a report; what was not measured is left out, or says why."""
    matrix = report.get('matrix', {})
    sections = [
        f'{report.get("date", "")}: {matrix.get("device", "unknown device")}, jax {matrix.get("jax", "?")}, '
        f'torch {_torch(report)}; {report["seconds"]:.0f} s in all',
        NO_GPU if matrix.get('platform') == 'cpu' else '',
        times(report['rows']),
        _share(report),
        kinds(report['rows']),
        _first_image(report.get('first_image', {})),
    ]
    return '\n\n'.join(section for section in sections if section) + '\n'


def times(rows: Sequence[dict[str, Any]]) -> str:
    """Times of every program, and how many times as fast ours are."""
    header = [
        'config, batch', 'part', 'program', 'ms', 'fastest', 'slowest', 'images/s', 'memory, GB',
        'ours, defaults', 'ours, bfloat16', 'measured',
    ]  # fmt: skip
    lines = []
    for row in sorted(rows, key=lambda row: (row['config'], row['part'])):
        name = [
            f'{row["config"]}, {row["batch_size"]}',
            PARTS[row['part']],
            f'{row["side"]}, {row["program"]}',
        ]
        if not row['seconds']:
            lines.append([*name, *['–'] * 7, row['error'] or 'not measured'])
            continue
        median = statistics.median(row['seconds'])
        memory = row['answers'].get('time', {}).get('memory_bytes')
        memory = memory or row['answers'].get('compile_again', {}).get('memory_bytes')
        lines.append(
            [
                *name,
                *(f'{1000 * value:.1f}' for value in (median, min(row['seconds']), max(row['seconds']))),
                f'{row["batch_size"] / median:.1f}',
                f'{memory / 1e9:.1f}' if memory else '–',
                *(_ratio(rows, row, program) for program in ('defaults', 'bfloat16')),
                row['how'] + (f', {row["overflows"]} steps overflowed' if row['overflows'] else ''),
            ]
        )
    return 'The columns "ours" say how many times as fast ours are.\n\n' + _table(header, lines)


def ratio(rows: Iterable[dict[str, Any]], theirs: dict[str, Any], program: str) -> float | None:
    """Their median time by that of our `program` in the same part of the same config; None without both."""
    if theirs['side'] == 'ours' or not theirs['seconds']:
        return None
    same = [
        row
        for row in rows
        if row['side'] == 'ours'
        and row['program'] == program
        and all(row[key] == theirs[key] for key in ('config', 'batch_size', 'part'))
        and row['seconds']
    ]
    return statistics.median(theirs['seconds']) / statistics.median(same[0]['seconds']) if same else None


def kinds(rows: Sequence[dict[str, Any]]) -> str:
    """Milliseconds of one step of our programs, by kind of kernel."""
    found = {
        f'{row["config"]}, {PARTS[row["part"]]}, {row["program"]}': row['answers']['profile']
        for row in rows
        if row['answers'].get('profile')
    }
    profiles = {name: profile for name, profile in found.items() if 'kinds' in profile}
    failed = [
        f'{name}: no profile: {profile["error"]}' for name, profile in found.items() if 'error' in profile
    ]
    if not profiles:
        return '\n'.join(failed)
    names = list(dict.fromkeys(kind for profile in profiles.values() for kind in profile['kinds']))
    lines = [[kind, *(_share_of(profile, kind) for profile in profiles.values())] for kind in names]
    total = [f'{sum(profile["kinds"].values()):.1f}' for profile in profiles.values()]
    wall = [f'{profile["step_milliseconds"]:.1f}' for profile in profiles.values()]
    table = _table(
        ['kernels of one step, ms', *profiles],
        [*lines, ['all', *total], ['the step, with the profiler', *wall]],
    )
    return '\n'.join([table, *failed])


def _share_of(profile: dict[str, Any], kind: str) -> str:
    value, total = profile['kinds'].get(kind, 0.0), sum(profile['kinds'].values())
    return f'{value:.1f} ({value / total:.0%})' if total else '–'


def _ratio(rows: Sequence[dict[str, Any]], row: dict[str, Any], program: str) -> str:
    value = ratio(rows, row, program)
    return '–' if value is None else f'{value:.2f}×'


def _share(report: dict[str, Any]) -> str:
    """How much of the device's matrix rate training reaches."""
    matrix = report.get('matrix', {})
    if 'flops_per_second' not in matrix:
        return f'no matrix rate: {matrix["error"]}' if 'error' in matrix else ''
    rate = matrix['flops_per_second']
    lines = [f'A {matrix["size"]}³ bfloat16 product: {rate / 1e12:.3g} TFLOP/s.']
    for row in report['rows']:
        flops = row['answers'].get('flops', {}).get('flops')
        if flops and row['seconds']:
            reached = flops / statistics.median(row['seconds'])
            lines.append(
                f'{row["config"]}, {PARTS[row["part"]]}, {row["program"]}: {reached / 1e12:.3g} TFLOP/s, '
                f'{reached / rate:.0%} of that.'
            )
    return '\n'.join(lines)


def _first_image(found: dict[str, Any]) -> str:
    if not found:
        return ''
    columns = {
        'total': 'seconds to the first guided image',
        'imports': 'imports',
        'parameters': 'parameters',
        'compile': 'compilation, first steps',
        'steps': 'other steps',
    }
    lines = []
    for name in ('cold', 'again'):
        answer = found.get(name, {})
        values = [f'{answer[key]:.1f}' if key in answer else '–' for key in columns]
        lines.append([f'{found["config"]}, {name} {answer.get("error", "")}'.strip(), *values])
    return _table(['', *columns.values()], lines)


def _torch(report: dict[str, Any]) -> str:
    answers = [row['answers'].get('load', {}) for row in report['rows']]
    return next((answer['torch'] for answer in answers if 'torch' in answer), '?')


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ['---'] * len(header), *lines]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)
