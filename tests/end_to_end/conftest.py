"""One complete run, which all tests here share."""

import pytest

from tests.program import run


@pytest.fixture(scope='session')
def finished(tmp_path_factory):
    """All stages, done. Tests may add to it what has a name of its own."""
    workdir = tmp_path_factory.mktemp('digits')
    assert run(workdir) == 0
    return workdir
