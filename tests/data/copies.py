"""The same image files as every kind of source that holds files: splits are folders, in them classes."""

import csv
import json
import tarfile
import zipfile
from pathlib import Path

import lmdb

TEST = {'train_split': 'train', 'test_split': 'test'}


def folder(root: Path, files: dict[str, bytes]) -> dict:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return {'path': str(root)}


def stored_zip(root: Path, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> dict:
    root.mkdir()
    with zipfile.ZipFile(root / 'images.zip', 'w', method) as archive:
        for name, content in reversed(files.items()):
            archive.writestr(name, content)
    return {'path': str(root / 'images.zip')}


def deflated_zip(root: Path, files: dict[str, bytes]) -> dict:
    return stored_zip(root, files, zipfile.ZIP_DEFLATED)


def tar(root: Path, files: dict[str, bytes]) -> dict:
    """Made of the folder that holds everything, as people do."""
    folder(root / 'images', files)
    with tarfile.open(root / 'images.tar', 'w') as archive:
        archive.add(root / 'images', 'images')
    return {'path': str(root / 'images.tar')}


def rows(files: dict[str, bytes]) -> list[dict[str, str]]:
    return [
        {'split': name.split('/')[0], 'path': f'files/{i:02}.image', 'class': name.split('/')[-2]}
        for i, name in enumerate(files)
    ]


def csv_table(root: Path, files: dict[str, bytes]) -> dict:
    """Files whose names say nothing; the table's column `split` gives the split."""
    folder(root, {row['path']: content for row, content in zip(rows(files), files.values(), strict=True)})
    with open(root / 'images.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, ['split', 'path', 'class'])
        writer.writeheader()
        writer.writerows(reversed(rows(files)))
    return {'path': str(root / 'images.csv')}


def jsonl_table(root: Path, files: dict[str, bytes]) -> dict:
    folder(root, {row['path']: content for row, content in zip(rows(files), files.values(), strict=True)})
    (root / 'images.jsonl').write_text(''.join(f'{json.dumps(row)}\n' for row in rows(files)))
    return {'path': str(root / 'images.jsonl')}


def metadata(root: Path, files: dict[str, bytes]) -> dict:
    """Hugging Face's imagefolder, with a table in every split."""
    for split in ('train', 'test'):
        own = {name: content for name, content in files.items() if name.startswith(split)}
        flat = {f'{i:02}.png': content for i, content in enumerate(own.values())}
        folder(root / split, flat)
        labels = [name.split('/')[-2] for name in own]
        lines = [f'{name},{label}\n' for name, label in zip(flat, labels, strict=True)]
        (root / split / 'metadata.csv').write_text('file_name,label\n' + ''.join(lines))
    return {'path': str(root)}


def lmdb_of(root: Path, files: dict[str, bytes]) -> dict:
    """One for each split, with keys that are paths."""
    for split in ('train', 'test'):
        (root / split).mkdir(parents=True)
        with (
            lmdb.open(str(root / split), map_size=2**24) as environment,
            environment.begin(write=True) as put,
        ):
            for name, content in files.items():
                if name.startswith(f'{split}/'):
                    put.put(name.removeprefix(f'{split}/').encode(), content)
    return {'path': str(root)}


COPIES = {
    'folder': folder,
    'zip': stored_zip,
    'zip, deflated': deflated_zip,
    'tar': tar,
    'csv': csv_table,
    'jsonl': jsonl_table,
    'metadata.csv': metadata,
    'lmdb': lmdb_of,
}
