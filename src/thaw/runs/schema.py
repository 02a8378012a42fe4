"""What values read from a file may be: small checks that are put together into a file's schema.

A check takes a value and raises `Wrong` unless it is as it should be; the message begins with where
in the file it is (`classes[3]: expected …`). Nothing is converted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Check = Callable[[Any], None]
DEEPEST = 40  # levels of nesting


class Wrong(ValueError):
    """A value isn't what the schema says."""


def _told(value: Any) -> str:
    """A value as a sentence shows it: shortly, in one line."""
    text = ascii(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:30]}… ({len(text)} characters)"


def _expect(good: bool, what: str, value: Any) -> None:
    if not good:
        raise Wrong(f"expected {what}, got {_told(value)}")


def anything(value: Any) -> None:
    """No check."""


def text(least: int = 0, most: int = 10_000) -> Check:
    """A string of so many characters."""
    what = "a text" if not least else "a text that isn't empty"

    def check(value: Any) -> None:
        _expect(isinstance(value, str), what, value)
        _expect(least <= len(value) <= most, f"{what}, of at most {most} characters", value)

    return check


def number(low: float = -math.inf, high: float = math.inf, finite: bool = True) -> Check:
    """A number in a range, both ends included; nan and inf only where `finite` is False."""
    between = f" from {low:g} to {high:g}" if math.isfinite(high - low) else ""
    if not between and math.isfinite(low):
        between = f" from {low:g}"

    def check(value: Any) -> None:
        _expect(_is_number(value), f"a number{between}", value)
        if finite or math.isfinite(value):
            _expect(abs(value) < 1e300 and low <= value <= high, f"a number{between}", value)

    return check


def whole(low: int, high: int) -> Check:
    """A whole number in a range, both ends included."""

    def check(value: Any) -> None:
        good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        _expect(good, f"a whole number from {low} to {high}", value)

    return check


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 10**300


def boolean(value: Any) -> None:
    """True or False."""
    _expect(isinstance(value, bool), "true or false", value)


def one_of(*valid: Any) -> Check:
    """One of these values."""

    def check(value: Any) -> None:
        good = isinstance(value, str | int | float | None) and value in valid
        _expect(good, f"one of {', '.join(map(str, valid))}", value)

    return check


def or_none(inner: Check) -> Check:
    """As `inner`, or nothing."""

    def check(value: Any) -> None:
        if value is not None:
            inner(value)

    return check


def items(inner: Check, least: int = 0, most: int = 10**8, unique: bool = False) -> Check:
    """A list whose elements are all as `inner`."""
    count = f"{least}" if least == most else f"{least} or more" if most == 10**8 else None
    what = f"a list of {count or f'{least} to {most}'}"

    def check(value: Any) -> None:
        _expect(isinstance(value, list) and least <= len(value) <= most, what, value)
        for i, element in enumerate(value):
            _at(f"[{i}]", inner, element)
        if unique and len(set(value)) < len(value):
            twice = next(e for i, e in enumerate(value) if e in value[:i])
            raise Wrong(f"expected each only once, got {_told(twice)} twice")

    return check


def record(
    required: Mapping[str, Check],
    optional: Mapping[str, Check] | None = None,
    others: Check | None = anything,
) -> Check:
    """A mapping with these keys.

    Args:
        others: of the values of all other keys; None if there may be none.
    """
    known = {**required, **(optional or {})}

    def check(value: Any) -> None:
        _expect(isinstance(value, dict), "a mapping", value)
        if missing := [key for key in required if key not in value]:
            raise Wrong(f"it lacks {', '.join(missing)}")
        for key, inner in value.items():
            _expect(isinstance(key, str), "names as keys", key)
            wanted = known.get(key, others)
            if wanted is None:
                raise Wrong(f"it has the unknown key {_told(key)}")
            _at(_told(key).strip("'"), wanted, inner)

    return check


def _at(place: str, check: Check, value: Any) -> None:
    try:
        check(value)
    except Wrong as wrong:
        inside, colon, rest = str(wrong).partition(": ")
        if colon and (inside[:1] == "[" or " " not in inside):  # a place further down
            dot = "" if inside[:1] == "[" else "."
            raise Wrong(f"{place}{dot}{inside}: {rest}") from None
        raise Wrong(f"{place}: {wrong}") from None


def bounded(value: Any, most: int = 10**7) -> None:
    """Raise Wrong where values are nested too deeply, or are too many.

    Few bytes of YAML can stand for more values than there are atoms: lists of the same list.
    """
    level: Sequence[Any] = [value]
    for _ in range(DEEPEST):
        most -= len(level)
        if most < 0:
            raise Wrong("it holds too many values")
        below: list[Any] = []
        for inner in level:
            if isinstance(inner, dict):
                below.extend(inner.values())
            elif isinstance(inner, list):
                below.extend(inner)
            if len(below) > most:
                raise Wrong("it holds too many values")
        if not below:
            return
        level = below
    raise Wrong(f"it is nested more than {DEEPEST} levels deep")
