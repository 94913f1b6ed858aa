"""A table of images and their labels, CSV or JSONL; also metadata.csv as in Hugging Face's imagefolder."""

import csv
import functools
import itertools
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.data.classes import listed
from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.sources.files import relative, shown
from diffusion_jax.data.sources.folder import FolderSource
from diffusion_jax.data.sources.labels import integer_classes, numbered
from diffusion_jax.data.sources.splits import SPLITS, name_of_split, place_of
from diffusion_jax.errors import UserError, reason

PATHS = ('file_name', 'path', 'image', 'filename')
LABELS = ('label', 'class')
SPLIT = 'split'
DELIMITERS = (',', ';', '\t')
INTEGER = re.compile('0|-?[1-9][0-9]{0,17}')  # not 007, which is a name
SUFFIXES = ('.csv', '.jsonl')
METADATA = ('metadata.csv', 'metadata.jsonl')


class Row(NamedTuple):
    """A line of a table. label, split: '' where there is none. columns: the names of those that it has."""

    line: int
    path: str
    label: str
    split: str
    columns: Sequence[str]


@dataclass(frozen=True)
class TableSource(FolderSource):
    """The files that a table names.

    Attributes:
        table: its path.
        lines: of every image, in the table.
        classes: of every image, '' without labels.
    """

    table: str = field(kw_only=True)
    lines: Sequence[int] = field(kw_only=True)
    classes: Sequence[str] = field(kw_only=True)

    @functools.cached_property
    def identity(self) -> str:  # type: ignore[override]  # computed when it is asked for
        names = [relative(path, self.root) for path in self.paths]
        return f'{zlib.crc32(repr((names, list(self.classes))).encode()):08x}'

    def name_of(self, index: int) -> str:
        return f'{shown(self.table)}, line {self.lines[index]}: {shown(self.paths[index])}'


def table_source(config: DataConfig, split: str, class_names: tuple[str, ...] | None) -> TableSource:
    """The images of a split, in the order of their paths.

    A split is, in this order: a table of its own; the rows whose column `split` names it; the rows of files
    in its folder. A table without any of them is the training split. Classes are in the order of their names,
    or of their numbers where all are integers.
    """
    table, inside = _table_of(config, split)
    rows, folder = _rows_of(table, _read(table), inside, split)
    root = os.path.dirname(table)
    rows.sort(key=lambda row: row.path)
    paths = [os.path.join(root, row.path) for row in rows]
    root = os.path.join(root, folder)
    classes = [row.label for row in rows]
    if config.labels == 'none':
        classes, labels, class_names = [''] * len(rows), np.zeros(len(rows), np.int32), ()
    else:
        _check_labels(table, rows)
        _check_one_label_each(table, rows)
        class_names = class_names or _class_names(table, set(classes))
        labels = numbered(classes, class_names, lambda i: f'{shown(table)}, line {rows[i].line}')
    lines, channels = [row.line for row in rows], config.image_channels
    return TableSource(labels, class_names, channels, paths, root, table=table, lines=lines, classes=classes)


def is_table(path: str) -> bool:
    """A table, or a folder with one named metadata.csv or metadata.jsonl."""
    if os.path.isdir(path):
        return any(os.path.isfile(os.path.join(path, name)) for name in METADATA)
    return path.lower().endswith(SUFFIXES) and os.path.isfile(path)


def contradicts_folders(config: DataConfig) -> bool:
    """Whether the training images are in several folders that are not the classes that the table gives."""
    source = table_source(config, 'train', None)
    names = [relative(path, source.root).split(os.sep) for path in source.paths]
    folders = [shown(parts[0]) if len(parts) > 1 else '' for parts in names]
    return bool(source.class_names) and len(set(folders)) > 1 and folders != source.classes


def _table_of(config: DataConfig, split: str) -> tuple[str, str]:
    """The table that lists a split, and the name of the split in it, '' where all rows are the split's."""
    path, inside = place_of(config, split)
    if os.path.isfile(path):
        return path, inside
    for folder, name in ((path, inside), (config.path, name_of_split(config, split))):
        found = [table for table in METADATA if os.path.isfile(os.path.join(folder, table))]
        if len(found) > 1:
            raise UserError(shown(folder), f'has {" and ".join(found)}', 'keep one of them')
        if found:
            return os.path.join(folder, found[0]), name
    remedy = f'set config.data.path to a .csv or .jsonl file, or to a folder with {" or ".join(METADATA)}'
    raise UserError(shown(path), 'is no table of images', remedy)


def _rows_of(table: str, rows: list[Row], inside: str, split: str) -> tuple[list[Row], str]:
    """The rows of a split, and the folder that holds their files if that is what makes them a split."""
    if not rows:
        raise UserError(shown(table), 'lists no images')
    if not inside:
        return rows, ''
    if splits := sorted({row.split for row in rows} - {''}):
        found, what = [row for row in rows if row.split == inside], 'splits'
        folder = ''
    else:
        folder, what = os.path.join(inside, ''), 'folders'
        found = [row for row in rows if row.path.startswith(folder)]
        splits = sorted({row.path.split('/')[0] for row in rows if '/' in row.path})
        if not found and inside == split == 'train' and SPLITS.isdisjoint(name.lower() for name in splits):
            return rows, ''
    if not found:
        problem = f'has no images of the split {inside!r}; its {what} are {listed(splits) or "none"}'
        remedy = f"set config.data.{split}_split to one of them, to another table, or to '' for all images"
        raise UserError(shown(table), problem, remedy)
    return found, folder


def _check_labels(table: str, rows: Sequence[Row]) -> None:
    empty = next((row for row in rows if not row.label), None)
    if empty is None:
        return
    where, problem = f'{shown(table)}, line {empty.line}', 'has nothing in a column'
    found = f'its columns are {listed(empty.columns)}'
    if table.lower().endswith('.csv'):
        found += f', separated by {_delimiter(table)!r} in the first line'
        if set(LABELS).isdisjoint(empty.columns):
            where, problem = shown(table), 'has no column'
    remedy = "add it, or set config.data.labels='none', or name='folder' for folders as classes"
    raise UserError(where, f'{problem} {" or ".join(LABELS)}; {found}', remedy)


def _check_one_label_each(table: str, rows: Sequence[Row]) -> None:
    """UserError for a file with two labels; rows are in the order of their paths."""
    for one, two in itertools.pairwise(rows):
        if one.path == two.path and one.label != two.label:
            problem = f'{shown(two.path)} has the label {two.label!r}, and {one.label!r} in line {one.line}'
            raise UserError(f'{shown(table)}, line {two.line}', problem, 'keep one of the lines')


def _class_names(table: str, classes: set[str]) -> tuple[str, ...]:
    if not all(map(INTEGER.fullmatch, classes)):
        return tuple(sorted(classes))
    numbers = {int(name) for name in classes}
    if min(numbers) < 0:
        remedy = "classes are numbered from 0; set config.data.labels='none' to use the images without labels"
        raise UserError(shown(table), f'contains the label {min(numbers)}', remedy)
    return integer_classes(numbers)


def _read(table: str) -> list[Row]:
    """The rows of a table. Raises UserError where it has no column of paths, or is damaged."""
    try:
        with open(table, encoding='utf-8-sig', newline='') as file:
            lines = _csv(file) if table.lower().endswith('.csv') else _jsonl(file)
            return [_row(table, line, cells) for line, cells in lines]
    except (OSError, ValueError, csv.Error) as error:
        problem, remedy = (
            f'cannot be read as a table ({reason(error)})',
            'save it as CSV or JSON lines in UTF-8',
        )
        raise UserError(shown(table), problem, remedy) from error


def _delimiter(table: str) -> str:
    with open(table, encoding='utf-8-sig', newline='') as file:
        return max(DELIMITERS, key=file.readline().count)  # by the header alone: captions hold any of them


def _csv(file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(file, delimiter=_delimiter(file.name), strict=True)
    return ((reader.line_num, cells) for cells in reader)


def _jsonl(file: Any) -> Iterator[tuple[int, Any]]:
    return ((i, json.loads(line)) for i, line in enumerate(file, start=1) if line.strip())


def _row(table: str, line: int, cells: Any) -> Row:
    where = f'{shown(table)}, line {line}'
    if not isinstance(cells, dict):
        raise UserError(where, f'is {type(cells).__name__}', 'every line must be a JSON object')
    columns = [str(name) for name in cells]
    path = next((cells[name] for name in PATHS if name in cells), None)
    if not path or not isinstance(path, str) or '\0' in path:
        problem = f'has no path; its columns are {listed(columns)}'
        raise UserError(where, problem, f'one must be {" or ".join(PATHS)}')
    try:
        os.fsencode(path)
    except ValueError as error:
        raise UserError(where, f'its path {path!r} cannot be that of a file') from error
    path = os.path.normpath(path)
    if os.path.isabs(path):  # relative to the table where it can be, as folders in it are splits
        path = path.removeprefix(os.path.join(os.path.abspath(os.path.dirname(table)), ''))
    label = next((cells[name] for name in LABELS if name in cells), None)
    if label is not None and (not isinstance(label, (str, int)) or isinstance(label, bool)):
        raise UserError(where, f'its label is {label!r}', 'labels are integers or names')
    split = str(cells.get(SPLIT) or '').strip()
    return Row(line, path, '' if label is None else str(label).strip(), split, columns)
