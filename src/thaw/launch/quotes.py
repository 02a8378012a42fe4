"""Text in Hydra's quotes: whatever is in it stays as it is."""

import re


def quoted(text: str) -> str:
    r"""Text as a value in Hydra's grammar, whatever is in it.

    >>> print(quoted("it's"), quoted("C:\\photos\\"), quoted("a\\b"))
    'it\'s' 'C:\photos\\' 'a\b'
    """
    # A backslash stands for itself, except before a quote and at the end.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + m[2].replace("'", r"\'"), text) + "'"


def unquoted(value: str) -> str:
    """What `quoted` was given."""
    if not is_quoted(value):
        return value
    quote = value[0]
    return re.sub(rf"(\\*)(\\{quote}|$)", lambda m: m[1][: len(m[1]) // 2] + m[2][-1:], value[1:-1])


def is_quoted(value: str) -> bool:
    """Whether it is one string in Hydra's own quotes."""
    return re.fullmatch(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", value, re.DOTALL) is not None
