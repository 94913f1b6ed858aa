"""Every file of a folder is listed once or counted as skipped, whatever links and names it has."""

import os

import pytest

from diffusion_jax.data.sources.files import list_images, shown


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def listed(root):
    listing = list_images(str(root))
    return [os.path.relpath(path, root) for path in listing.paths], listing


def test_other_files_are_counted_by_kind(tmp_path):
    for name in ('a/1.png', 'a/2.WebP', 'b/3.Tiff', 'b/4.bmp', 'b/5.JPE', 'b/6.jp2'):
        touch(tmp_path / name)
    for name in ('a/notes.txt', 'b/more.TXT', 'a/image', 'a/x.pdf', 'a/y.h5', '.DS_Store', '.git/z.png'):
        touch(tmp_path / name)
    os.mkfifo(tmp_path / 'pipe.png')
    paths, listing = listed(tmp_path)
    assert paths == ['a/1.png', 'a/2.WebP', 'b/3.Tiff', 'b/4.bmp', 'b/5.JPE', 'b/6.jp2']
    assert {kind: count for kind, (count, _) in listing.skipped.items()} == {
        'with suffix .txt': 2,
        'with suffix .pdf': 1,
        'with suffix .h5': 1,
        'without a suffix': 1,
        'hidden': 2,
        'no regular file': 1,
    }
    summary = listing.summary()
    assert '8 files' in summary
    assert '2 with suffix .txt (a/notes.txt)' in summary and '1 without a suffix (a/image)' in summary


def test_a_folder_of_images_alone_has_no_summary(tmp_path):
    touch(tmp_path / '1.png')
    assert list_images(str(tmp_path)).summary() == ''


@pytest.mark.parametrize('target', ['.', '..', '../..', '/'])
def test_a_link_upwards_adds_nothing(tmp_path, target):
    for name in ('train/a/1.png', 'train/b/2.png', 'test/a/3.png'):
        touch(tmp_path / name)
    (tmp_path / 'train/a/up').symlink_to(target)
    paths, listing = listed(tmp_path / 'train')
    assert paths == ['a/1.png', 'b/2.png']
    assert sum(count for count, _ in listing.skipped.values()) == 1
    assert 'a/up' in listing.summary()


def test_a_link_upwards_behind_another_link_adds_nothing(tmp_path):
    for name in ('data/train/1.png', 'data/2.png', 'store/x/3.png', 'store/4.png'):
        touch(tmp_path / name)
    (tmp_path / 'data/train/x').symlink_to('../../store/x')
    (tmp_path / 'store/x/above_itself').symlink_to('..')
    (tmp_path / 'store/x/above_the_root').symlink_to('../../data')
    paths, listing = listed(tmp_path / 'data/train')
    assert paths == ['1.png', 'x/3.png']
    assert listing.skipped['link to a folder above it'][0] == 2


def test_links_between_folders_never_loop(tmp_path):
    touch(tmp_path / 'a/1.png')
    touch(tmp_path / 'b/2.png')
    (tmp_path / 'a/b').symlink_to('../b')
    (tmp_path / 'b/a').symlink_to('../a')
    (tmp_path / 'b/self').symlink_to('self')
    paths, listing = listed(tmp_path)
    assert paths == ['a/1.png', 'b/2.png']
    assert listing.skipped['broken link'] == (1, str(tmp_path / 'b/self'))


def test_an_image_reached_twice_has_its_real_path(tmp_path):
    """Also where the link comes first by name. A hard link is a file of its own."""
    touch(tmp_path / 'm/1.png')
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a/0.png').symlink_to('../m/1.png')
    (tmp_path / 'z').symlink_to('m')
    os.link(tmp_path / 'm/1.png', tmp_path / 'm/2.png')
    paths, listing = listed(tmp_path)
    assert paths == ['m/1.png', 'm/2.png']
    assert listing.skipped['link to an image or folder that is listed already'][0] == 2


def test_links_to_elsewhere_are_followed(tmp_path):
    """A folder once; an image by every link: classes may share it."""
    for name in ('store/x/1.png', 'store/y/2.png', 'store/z/8.png', 'store/blob', 'train/c/3.png'):
        touch(tmp_path / name)
    (tmp_path / 'train/a').symlink_to('../store/x')
    (tmp_path / 'train/b').symlink_to('../store/y')
    (tmp_path / 'train/d').symlink_to('../store/y')
    (tmp_path / 'train/c/4.png').symlink_to('../../store/blob')
    (tmp_path / 'train/c/5.png').symlink_to('../../store/blob')
    touch(tmp_path / 'train/c/.hidden.png')
    (tmp_path / 'train/c/6.png').symlink_to('.hidden.png')
    (tmp_path / 'train/c/z').symlink_to('../../store/z')
    (tmp_path / 'train/c-z').symlink_to('../store/z')  # before c/z by path, after it in a walk
    paths, listing = listed(tmp_path / 'train')
    assert paths == ['a/1.png', 'b/2.png', 'c-z/8.png', 'c/3.png', 'c/4.png', 'c/5.png', 'c/6.png']
    assert listing.skipped['link to an image or folder that is listed already'][0] == 2


def test_broken_links_and_unreadable_folders_are_named(tmp_path, monkeypatch):
    touch(tmp_path / 'a/1.png')
    touch(tmp_path / 'locked/2.png')
    (tmp_path / 'a/gone.png').symlink_to('nowhere.png')
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith('locked'):
            raise PermissionError(13, 'Permission denied', path)
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    paths, listing = listed(tmp_path)
    assert paths == ['a/1.png']
    assert '1 broken link (a/gone.png)' in listing.summary()
    assert '1 unreadable folder (locked)' in listing.summary()


def test_faults_are_named_among_any_number_of_other_kinds(tmp_path):
    for number in range(20):
        for name in 'ab':
            touch(tmp_path / f'{name}.{number}')
    (tmp_path / 'gone.png').symlink_to('nowhere.png')
    summary = listed(tmp_path)[1].summary()
    assert '41 files' in summary and '1 broken link (gone.png)' in summary


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    folder = os.fsencode(tmp_path)
    for name in (b'caf\xe9.png', b'caf\xe9.txt', 'café.png'.encode()):
        open(os.path.join(folder, name), 'w').close()
    paths, listing = listed(tmp_path)
    assert [os.fsencode(path) for path in paths] == ['café.png'.encode(), b'caf\xe9.png']
    assert [shown(path) for path in paths] == ['café.png', 'caf\\xe9.png']
    assert '(caf\\xe9.txt)' in listing.summary()


def test_an_ordinary_file_costs_no_stat(tmp_path, monkeypatch):
    calls = []
    for name in ('stat', 'lstat'):
        call = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, call=call, **options: calls.append(args) or call(*args, **options)
        )

    def calls_of(count):
        for number in range(count):
            (tmp_path / f'{number}.png').touch()
        calls.clear()
        assert len(listed(tmp_path)[0]) == count
        return len(calls)

    assert calls_of(1) == calls_of(50)
