"""The one error that a user of an experiment is meant to see."""


class UsageError(ValueError):
    """Something the user can fix: a bad option, a folder that cannot be used, a damaged file.

    `launch` prints its message on one line and exits with status 2, without a traceback. Raise it (or any
    `ValueError` from `check`) before long work starts, and let the message say what to do.
    """
