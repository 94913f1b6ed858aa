"""experiments/cpu.py needs the authors' code and PyTorch, and says so."""

from benchmarking.flags import FILES

from experiments import cpu


def test_what_is_missing_is_named(tmp_path, capsys):
    against = ['--against', str(tmp_path), '--torch-python', 'no-such-python']
    assert cpu.main(against) == 2
    assert 'error: --against' in capsys.readouterr().err
    (tmp_path / 'guided_diffusion').mkdir()
    for name in FILES:
        (tmp_path / 'guided_diffusion' / f'{name}.py').touch()
    assert cpu.main(against) == 2
    assert 'error: --torch-python' in capsys.readouterr().err
