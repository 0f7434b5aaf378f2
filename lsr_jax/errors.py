"""What a user reads when a run cannot go on, always one line."""


class InputError(Exception):
    """Bad input: a file, a config key, a flag or a checkpoint that cannot be used.

    The message is one line that names the file or key, what was expected, what was
    found and what to do. The scripts print it after ``error:`` and exit with code 2.
    """


class TrainingError(Exception):
    """Work cannot go on, though the input was usable: NaN, full disk, a dead process.

    The message is one line; the scripts print it after ``error:`` and exit with code 1.
    """


class Stopped(BaseException):  # no `except Exception` on its way may take it
    """The run was told to stop; what it did so far is kept.

    The message is one line; the scripts print it and how to go on, and exit with code 3.
    """


def one_line(text: object) -> str:
    """The text of an error without line breaks: names of files may hold them."""
    return " ".join(str(text).split())
