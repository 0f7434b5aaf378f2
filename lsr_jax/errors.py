"""Exceptions that a command reports as one line, and errno values with an exit code."""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_FAILURE = (*DISK_FULL, errno.EIO)
BAD_PATH = (
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EROFS,
)


class InputError(Exception):
    """Bad input: a file, config key, flag or checkpoint that cannot be used.

    The message is one line: ``what: problem (found X, expected Y); what to do``. Commands
    print it after ``error:`` and exit with code 2.
    """


class TrainingError(Exception):
    """Work failed on usable input: NaN, a full disk, a dead process.

    Commands print the message after ``error:`` and exit with code 1.
    """


class Stopped(BaseException):  # not an Exception, so that no handler swallows it
    """The run was told to stop, and its state is saved.

    Commands print the message and how to continue, and exit with code 3.
    """


def one_line(text: object) -> str:
    """The text of an error without line breaks: names of files may hold them."""
    return " ".join(str(text).split())
