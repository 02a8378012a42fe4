"""Fill a page's template: all text is escaped, and the page may load and run nothing of others.

Styles, script and pictures are in the page itself. Its Content-Security-Policy lets a browser
fetch nothing, and run no script but ours, by its digest: a name that got through would not act.
"""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from thaw.escape import printable


def render(template: str, **values: Any) -> str:
    """The page `ROOM/NAME.html` of the package, an extension of `page/base.html`."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _read("page/page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    made.globals |= {
        "style": Markup(_read("page/base.css")),
        "script": Markup(script),
        "script_digest": digest,
    }
    made.filters |= {"name": name, "percent": percent, "photos": photos, "number": number}
    return made


def _read(path: str) -> str:
    return (files("thaw") / path).read_text(encoding="utf-8")


def name(text: Any) -> Markup:
    """A name in a sentence: it can turn no direction of writing but its own, and where room is
    short it is broken at a `_` or a `/`, not within a word.

    >>> name("<b>_c")
    Markup('<bdi>&lt;b&gt;_<wbr>c</bdi>')
    """
    parts = re.split(r"(?<=[_/])(?=[^_/])", printable(str(text)))
    return Markup("<bdi>{}</bdi>").format(Markup("<wbr>").join(parts))


def percent(share: float) -> str:
    """A share as words have it.

    >>> percent(0.9412), percent(1)
    ('94.1%', '100%')
    """
    return f"{share:.1%}".replace(".0%", "%") if share in (0, 1) else f"{share:.1%}"


def photos(count: int) -> str:
    """How many.

    >>> photos(1), photos(2000)
    ('1 photo', '2,000 photos')
    """
    return f"{count:,} photo{'' if count == 1 else 's'}"


def number(value: float) -> str:
    """To three digits, large ones whole.

    >>> number(0.00123), number(12345.6)
    ('0.00123', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
