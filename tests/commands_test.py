import pytest

from lsr_jax import commands
from lsr_jax.errors import InputError


def test_an_input_error_is_one_line_and_code_2(capsys):
    def command():
        raise InputError("file x:\n  expected\ty")

    assert commands.guarded(command) == 2
    assert capsys.readouterr().err == "error: file x: expected y\n"


def test_other_codes_pass_and_other_errors_are_not_hidden():
    assert commands.guarded(lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        commands.guarded(lambda: 1 // 0)


def test_wrong_arguments_are_input_errors():
    parser = commands.Parser(prog="x")
    parser.add_argument("--seed", type=int)
    with pytest.raises(InputError, match=r"'many'; see --help"):
        parser.parse_args(["--seed", "many"])
