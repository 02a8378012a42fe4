"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """What was expected, what came, where it was set, what is valid; in one sentence.

    `thaw COMMAND` prints it without a traceback and exits with code 2.
    """
