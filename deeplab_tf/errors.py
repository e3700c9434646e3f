"""The one error that a user is meant to read."""


class UserError(ValueError):
    """Something the user gave is wrong; the message says what, where, and what to do.

    The commands print the message without a traceback and exit with 1.
    """
