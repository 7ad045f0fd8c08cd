"""One HTML file that needs nothing else and reaches nothing.

Template, style, script and font in one, and a policy that forbids everything besides.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from trueup.reports.answers import facts_of
from trueup.reports.words import shortened

_TEMPLATES = files("trueup.reports") / "templates"
LARGEST = 3_000_000  # bytes of a page


def render(template: str, kind: str, title: str, count: int, **context: Any) -> str:
    """The page as text.

    Args:
        template: file in ``templates/``.
        kind: of page, in words.
        title: of the window.
        count: run folders it was made from.
        context: what the template is given besides.
    """
    style = f"{_font()}\n{_text('style.css')}"
    script = _text("script.js")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trueup.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shortened"] = shortened
    environment.filters["facts"] = facts_of
    return environment.get_template(template).render(
        kind=kind,
        title=title,
        count=count,
        style=Markup(style),
        script=Markup(script),
        policy=policy(style, script),
        version=version("trueup"),
        **context,
    )


def policy(style: str, script: str) -> str:
    """The page's content security policy: nothing from anywhere, and only the style and script that we wrote."""
    return (
        f"default-src 'none'; style-src 'sha256-{_digest(style)}'; script-src 'sha256-{_digest(script)}'; "
        "font-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _font() -> str:
    data = base64.b64encode((_TEMPLATES / "inter.woff2").read_bytes()).decode()
    return (
        '@font-face { font-family: "Report Inter"; font-weight: 400 700; '
        f"src: url(data:font/woff2;base64,{data}) format('woff2'); }}"
    )
