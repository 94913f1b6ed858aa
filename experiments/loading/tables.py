"""The results of data_speed.py in Markdown."""

from typing import Any

NEEDED = {64: 300, 256: 53}  # images/s that one H100 trains in bfloat16 (gpu.md)


def table(result: dict[str, Any]) -> str:
    versions = '; '.join(
        f'{side}: ' + ', '.join(f'{package} {number}' for package, number in found.items())
        for side, found in result['versions'].items()
    )
    loads = ' to '.join(f'{load:.1f}' for load in result['load_average'])
    lines = [
        f'{result["machine"]}, {result["date"]}, load average {loads}. {versions}.',
        '',
        f'Images a second, medians of {result["rounds"]} rounds of turns, from JPEG files of 500×375 pixels '
        f'and {result["jpeg_bytes"] / 1000:.0f} KB, in batches of {result["batch"]}. Ratios are medians of '
        'those of single rounds.',
        '',
        '| pixels | workers | DataLoader | ours, JPEG | ratio | ours, prepared | ratio |',
        '|---|---|---|---|---|---|---|',
    ]
    for row in result['rows']:
        cells = [f'{row["medians"]["torch"]:.0f}']
        for kind in ('jpeg', 'prepared'):
            cells += [f'{row["medians"][kind]:.0f}', f'{row["ratios"][kind]:.2f}']
        lines.append(f'| {row["size"]} | {row["workers"]} | {" | ".join(cells)} |')
    lines += ['', "Threads and processes (Grain's `mp_prefetch`), JPEG at 256 pixels:", '']
    lines += ['| workers | threads | processes |', '|---|---|---|']
    for row in result['rows']:
        if 'processes' in row['medians']:
            threads, processes = row['medians']['jpeg'], row['medians']['processes']
            lines.append(f'| {row["workers"]} | {threads:.0f} | {processes:.0f} |')
    return '\n'.join([*lines, '', *needed(result['rows']), '', *format_lines(result['formats']), ''])


def needed(rows: list[dict[str, Any]]) -> list[str]:
    """How many cores feed one H100: the images that it trains a second times the CPU time of an image."""
    lines = ['Cores that keep one H100 busy: images that it trains a second by CPU time of an image.', '']
    lines += ['| network | from JPEG | prepared |', '|---|---|---|']
    for row in rows:
        if row['workers'] == 0 and row['size'] in NEEDED:
            cells = []
            for kind in ('jpeg', 'prepared'):
                rate, ms = NEEDED[row['size']], row['cpu_ms'][kind]
                cells.append(f'{rate}/s · {ms:.2f} ms = {rate * ms / 1000:.2f}')
            lines.append(f'| ADM-{row["size"]} | {" | ".join(cells)} |')
    return lines


def format_lines(formats: dict[str, dict[str, float]]) -> list[str]:
    lines = ['Formats of a prepared image of 256×256 pixels, in milliseconds of CPU time:', '']
    lines += ['| format | KB | write | read |', '|---|---|---|---|']
    for name, row in formats.items():
        size, write, read = (row[key] for key in ('bytes', 'write_ms', 'read_ms'))
        lines.append(f'| {name} | {size / 1000:.0f} | {write:.2f} | {read:.2f} |')
    return lines
