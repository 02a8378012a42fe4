"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """What was expected, what came, where it was set, what is valid; in one sentence.

    `train.py` and the scripts print it without a traceback and exit with code 2.
    """
