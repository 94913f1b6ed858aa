"""Tables of images: columns, splits, labels, and what is wrong with a row."""

import json

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.data.config import DataConfig
from diffusion_jax.data.image_sets.source import open_split
from diffusion_jax.data.sources import make_source
from diffusion_jax.data.sources.kinds import resolve
from diffusion_jax.data.sources.reading import UnreadableImage
from tests.errors import refused


@pytest.fixture
def root(tmp_path):
    """Images 0 … 5 in pictures/, whose grey levels are their numbers."""
    (tmp_path / 'pictures').mkdir()
    for i in range(6):
        Image.fromarray(np.full((2, 3), i, np.uint8)).save(tmp_path / 'pictures' / f'{i}.png')
    return tmp_path


def source_of(path, split='train', **settings):
    return make_source(DataConfig('auto', path=str(path), **settings), split)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def table(root, *rows, head='path,label'):
    return write(root / 'x.csv', '\n'.join([head, *rows, '']))


def found(source):
    """Class names, and (grey level, label) of every image."""
    levels = [int(source[i]['image'][0, 0, 0]) for i in range(len(source))]
    return source.class_names, [*zip(levels, source.labels.tolist(), strict=True)]


@pytest.mark.parametrize('path', ['file_name', 'path', 'image', 'filename'])
@pytest.mark.parametrize('label', ['label', 'class'])
def test_columns_have_several_names(root, path, label):
    rows = 'pictures/1.png,"cat, large",x', 'pictures/0.png,bee,y'
    source = source_of(table(root, *rows, head=f'{path},{label},caption'))
    assert found(source) == (('bee', 'cat, large'), [(0, 0), (1, 1)])
    text = json.dumps({path: 'pictures/1.png', label: 'cat', 'caption': None})
    assert found(source_of(write(root / 'x.jsonl', f'{text}\n\n'))) == (('cat',), [(1, 0)])


@pytest.mark.parametrize(
    ('labels', 'names', 'numbers'),
    [
        ((0, 1, 2), ('0', '1', '2'), [0, 1, 2]),
        ((10, 9, 9), ('9', '10'), [1, 0, 0]),
        (('b', 'a', 'b'), ('a', 'b'), [1, 0, 1]),
        (('1', 'a', '10'), ('1', '10', 'a'), [0, 2, 1]),
        (('010', '02', '02'), ('010', '02'), [0, 1, 1]),
        (('7', '--1', '7'), ('--1', '7'), [1, 0, 1]),
    ],
)
@pytest.mark.parametrize('suffix', ['csv', 'jsonl'])
def test_labels_are_numbers_or_names(root, labels, names, numbers, suffix):
    path = table(root, *(f'pictures/{i}.png,{label}' for i, label in enumerate(labels)))
    if suffix == 'jsonl':
        lines = [json.dumps({'path': f'pictures/{i}.png', 'label': label}) for i, label in enumerate(labels)]
        path = write(root / 'x.jsonl', '\n'.join(lines))
    assert found(source_of(path)) == (names, [*enumerate(numbers)])


@pytest.mark.parametrize('delimiter', [';', '\t'])
def test_cells_may_be_separated_by_semicolons_or_tabs(root, delimiter):
    rows = [
        ('path', 'label', 'text'),
        ('pictures/1.png', 'cat, large', 'a,b,c'),
        ('pictures/0.png', 'bee', ''),
    ]
    path = write(root / 'x.csv', '\ufeff' + '\n'.join(map(delimiter.join, rows)))
    assert found(source_of(path)) == (('bee', 'cat, large'), [(0, 0), (1, 1)])


def test_a_column_gives_the_split(root):
    rows = ('pictures/0.png,a,train', 'pictures/1.png,b, train', 'pictures/2.png,b,validation')
    path = table(root, *rows, head='path,label,split')
    assert found(source_of(path)) == (('a', 'b'), [(0, 0), (1, 1)])
    assert found(source_of(path, 'test', test_split='validation')) == (('a', 'b'), [(2, 1)])
    assert len(source_of(path, train_split='')) == 3
    with refused('x.csv', "'test'", 'train, validation', 'config.data.test_split'):
        source_of(path, 'test')


def test_folders_or_tables_give_the_split(root):
    lines = [
        f'{split}/{i}.png,{name}'
        for split, i, name in (('train', 0, 'a'), ('train', 1, 'b'), ('test', 2, 'b'))
    ]
    for line in lines:
        (root / line.split('/')[0]).mkdir(exist_ok=True)
        (root / 'pictures' / line[-7:-2]).rename(root / line[:-2])
    path = write(root / 'metadata.csv', '\n'.join(['file_name,label', *lines]))
    dots = write(root / 'dots.csv', '\n'.join(['file_name,label', *(f'./{line}' for line in lines)]))
    absolute = write(root / 'all.csv', '\n'.join(['file_name,label', *(f'{root}/{line}' for line in lines)]))
    for where in (path, root, dots, absolute):
        assert found(source_of(where)) == (('a', 'b'), [(0, 0), (1, 1)])
        assert found(source_of(where, 'test')) == (('a', 'b'), [(2, 1)])
    for split in ('train', 'test'):
        own = [line for line in lines if line.startswith(split)]
        write(root / f'{split}.csv', '\n'.join(['file_name,label', *own]))
    settings = {'train_split': 'train.csv', 'test_split': 'test.csv'}
    path.unlink()
    assert found(source_of(root, **settings)) == (('a', 'b'), [(0, 0), (1, 1)])
    assert found(source_of(root, 'test', **settings)) == (('a', 'b'), [(2, 1)])


def test_a_table_without_splits_is_the_training_split(root):
    path = table(root, 'pictures/0.png,a', 'pictures/1.png,b')
    assert len(source_of(path)) == 2
    with refused('x.csv', "'test'", 'pictures'):
        source_of(path, 'test')
    with refused('y.csv', 'val', 'train_split'):
        source_of(write(root / 'y.csv', 'path,label\npictures/0.png,a\nval/1.png,b'))


def test_labels_that_agree_with_the_folders_are_no_contradiction(root):
    rows = 'cat/0.png,cat', 'dog/1.png,dog', 'dog/2.png,dog'
    for row in rows:
        write(root / 'x' / row.split(',')[0], '')
    path = write(root / 'x' / 'metadata.csv', '\n'.join(['file_name,label', *rows])).parent
    assert resolve(DataConfig('auto', path=str(path))).name == 'table'
    write(path / 'metadata.csv', '\n'.join(['file_name,label', *rows[:2], 'dog/2.png,wolf']))
    with refused('/x', "'folder'", "'table'", 'config.data.name'):
        source_of(path, train_split='')
    assert resolve(DataConfig('auto', path=str(path), labels='none')).name == 'table'
    assert source_of(root / 'x' / 'metadata.csv').class_names == ('cat', 'dog', 'wolf')


def test_the_identity_depends_on_paths_and_labels_not_on_the_order_of_rows(root):
    rows = 'pictures/0.png,a', 'pictures/1.png,b'
    identities = [
        source_of(write(root / f'{i}.csv', '\n'.join(['path,label', *lines]))).identity
        for i, lines in enumerate([rows, rows[::-1], ('pictures/0.png,b', 'pictures/1.png,a')])
    ]
    assert identities[0] == identities[1] != identities[2]


@pytest.mark.parametrize(
    ('text', 'where', 'values'),
    [
        ('', 'x.csv', ['no images']),
        ('path,label\n', 'x.csv', ['no images']),
        ('url;label\npictures/0.png;a\n', 'line 2', ['url, label', 'file_name']),
        ('path,label\n,a\n', 'line 2', ['path']),
        ('path,kind\npictures/0.png,a\n', 'x.csv', ['label', 'path, kind', "config.data.labels='none'"]),
        ('path;label\npictures/0.png,a\n', 'line 2', ['label', "';'"]),
        ('path,label\na.png,x\nb.png,y\n./a.png,y\n', 'line 4', ['a.png', "'y'", "'x'", 'line 2']),
        ('path,label\npictures/0.png,a\npictures/1.png,\n', 'line 3', ['label']),
        ('path,label\npictures/0.png,-1\npictures/1.png,3\n', 'x.csv', ['-1', "config.data.labels='none'"]),
        ('path,label\n"pictures/0.png,a\n', 'x.csv', []),
        ('path,label\npictures/\udcff.png,a\n', 'x.csv', []),
    ],
)
def test_rows_that_cannot_work_are_named(root, text, where, values):
    (root / 'x.csv').write_bytes(text.encode('utf-8', 'surrogateescape'))
    with refused(where, *values):
        source_of(root / 'x.csv')


@pytest.mark.parametrize(
    ('line', 'where', 'values'),
    [
        ('[1]', 'line 1', ['list']),
        ('{"path": 3}', 'line 1', ['path']),
        ('{"path": "x.png", "kind": "a"}', 'line 1', ['path, kind']),
        ('{"path": "\\u0000.png", "label": 1}', 'line 1', ['path']),
        ('{"path": "x.png", "label": 1.5}', 'line 1', ['1.5']),
        ('{"path": "x.png", "label": true}', 'line 1', ['True']),
        ('{"path": "\\ud800.png", "label": 1}', 'line 1', []),
        ('{"path": ', 'x.jsonl', ['UTF-8']),
    ],
)
def test_lines_that_cannot_work_are_named(root, line, where, values):
    with refused(where, *values):
        source_of(write(root / 'x.jsonl', line))


def test_a_class_without_training_images_and_a_missing_image_are_named(root):
    rows = 'pictures/0.png,a,train', 'pictures/1.png,b,test', 'pictures/missing.png,a,train'
    path = table(root, *rows, head='path,label,split')
    with refused('x.csv, line 3', "'b'"):
        source_of(path, 'test')
    with refused(
        'x.csv, line 4: ' + str(root / 'pictures/missing.png'), 'No such file', kind=UnreadableImage
    ):
        source_of(path)[1]
    images = open_split(DataConfig('auto', path=str(path), image_size=(2, 3)), 'train')
    (part,) = images.parts
    assert len(images.read(part).images) == 1 and 'missing.png' in images.read(part).unreadable[0]
    with refused('x.csv', "'other'", 'config.data.train_split'):
        source_of(path, train_split='other')


def test_a_line_may_be_repeated(root):
    path = table(root, 'pictures/0.png,a', 'pictures/1.png,b', 'pictures/0.png,a')
    assert found(source_of(path)) == (('a', 'b'), [(0, 0), (0, 0), (1, 1)])


def test_two_tables_or_none_are_refused(root):
    for name in ('metadata.csv', 'metadata.jsonl'):
        write(root / name, '')
    with refused(str(root), 'metadata.csv and metadata.jsonl'):
        source_of(root)
    with refused('pictures', 'metadata.csv'):
        make_source(DataConfig('table', path=str(root / 'pictures')), 'train')
