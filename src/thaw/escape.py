"""Names are free text: how each place shows them, so that none of it acts.

Names of classes, photos and folders come from file systems and from files that others made. They
may hold markup, formulas, escape sequences of terminals, and bytes that are no text. Each kind of
place has one function here, and names go through it on their way there.
"""

import re
import unicodedata
from collections.abc import Iterable

# Control characters, lone surrogates (bytes of file names that are no UTF-8), and what turns the
# direction of writing or can't be seen, in which one name looks like another.
HIDDEN = ("Cc", "Cs", "Cf", "Zl", "Zp")
FORMULA = re.compile(r"'*[=+\-@\t\r\n|%]")  # a cell of this kind is run by spreadsheets
MARKS = re.compile(r"([\\`*|<>\[\]$~&])")  # of Markdown; `_` within a word is none


def printable(text: str, keep: str = "") -> str:
    r"""As it is, but for what can't be seen or what a terminal would obey: that as an escape.

    >>> printable("caf\u00e9 \x1b[31m\udcff")
    'café \\x1b[31m\\udcff'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or not _is_hidden(c) else _escaped(c) for c in text)


def _is_hidden(character: str) -> bool:
    # Emoji are joined by a format character that is no trick.
    return unicodedata.category(character) in HIDDEN and character != "\u200d"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def cell(text: str) -> str:
    """For a CSV file: what a spreadsheet would run begins with an apostrophe.

    >>> cell("=cmd()"), cell("-3.5"), cell("ants")
    ("'=cmd()", '-3.5', 'ants')
    """
    return f"'{text}" if FORMULA.match(text) and not _is_number(text) else text


def uncell(text: str) -> str:
    """What `cell` was given.

    >>> uncell(cell("=cmd()")), uncell(cell("'=cmd()")), uncell("'tis")
    ('=cmd()', "'=cmd()", "'tis")
    """
    if text.startswith("'") and FORMULA.match(text[1:]) and not _is_number(text[1:]):
        text = text[1:]
    # Of bytes that are no UTF-8, as `thaw.files.write` puts them.
    return re.sub(r"\\u(dc[89a-f][0-9a-f])", lambda found: chr(int(found[1], 16)), text)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE) is not None


def joined(names: Iterable[str]) -> str:
    r"""Names in one cell, with `|` between them; a `|` within a name gets a backslash.

    >>> joined(["ants", "a|b"])
    'ants|a\\|b'
    """
    return "|".join(re.sub(r"([\\|])", r"\\\1", name) for name in names)


def utf8(text: str) -> str:
    """For libraries that take no lone surrogates: these as escapes, all else as it is."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def markdown(text: str) -> str:
    r"""For a line or a table's cell of Markdown.

    >>> markdown("a|b <b>*")
    'a\\|b \\<b\\>\\*'
    """
    return MARKS.sub(r"\\\1", printable(text))


def drawn(text: str) -> str:
    """For a figure: letters that its font doesn't have are escapes, which tell names apart."""
    return "".join(c if _has_glyph(c) else _escaped(c) for c in printable(text, keep="\n"))


def _has_glyph(character: str) -> bool:
    """Whether DejaVu Sans draws it: European scripts, signs; not those of East Asia, nor emoji."""
    if character.isascii():
        return True
    from matplotlib.font_manager import findfont, get_font

    return bool(get_font(findfont("DejaVu Sans")).get_char_index(ord(character)))
