"""Every command ends with a status and a line, whatever ends it."""

from importlib import import_module

import pytest

from mmlabel.commands import run_command
from mmlabel.errors import UserError

NAMES = "compare data.__main__ demo export.__main__ features mistakes predict"


@pytest.mark.parametrize("command", NAMES.split())
def test_ctrl_c_is_a_line_and_130(command: str, monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    module = import_module(f"mmlabel.{command}")
    monkeypatch.setattr(module, "_parser", interrupted)
    assert module.main([]) == 130
    assert capsys.readouterr().err == "mmlabel: interrupted\n"


def test_the_status_of_the_work(capsys):
    assert run_command(lambda: None) == 0
    assert run_command(lambda: 3) == 3
    assert capsys.readouterr() == ("", "")


def test_a_mistake_is_a_line_and_1(capsys):
    def mistaken() -> None:
        raise UserError("x.csv, row 3: \x1b[31mred\x1b[0m is no label")

    assert run_command(mistaken) == 1
    assert capsys.readouterr().err == "mmlabel: x.csv, row 3: ?[31mred?[0m is no label\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)
