"""A hook of MkDocs: formulas become MathML when pages are built, which browsers draw without scripts or a network."""

import html
import re

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
_WIDE = 50  # characters of TeX, above which a formula in a line may be wider than a telephone
_ARG = re.compile(r"\\arg(?![A-Za-z])")
_LEFT = re.compile(r"<m[ion][^>]*>(\\[A-Za-z]*)")  # a command that the converter does not know stays as it is


def mathml(tex: str, display: str) -> str:
    """A formula in MathML, with its source for who copies or listens to it. **Raises** `ValueError` for unknown TeX."""
    try:
        markup = convert(_ARG.sub(r"\\operatorname{arg}", tex), display=display)
    except Exception as error:
        raise ValueError(f"cannot convert the formula {tex!r}: {error!r}") from error
    unknown = _LEFT.findall(markup)
    if unknown:
        raise ValueError(f"the formula {tex!r} has {', '.join(unknown)}, which latex2mathml does not know")
    return markup.replace("<math ", f'<math alttext="{html.escape(tex)}" ', 1)


def on_page_content(content: str, page, **_) -> str:
    """Called by MkDocs with the HTML of every page."""

    def inline(match: re.Match) -> str:
        tex = _tex(match)
        markup = mathml(tex, "inline")
        return f'<span class="wide-formula">{markup}</span>' if len(tex) > _WIDE else markup

    def block(match: re.Match) -> str:
        return f'<div class="formula">{mathml(_tex(match), "block")}</div>'

    try:
        content = _BLOCK.sub(block, _INLINE.sub(inline, content))
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}.") from error
    if 'class="arithmatex"' in content:
        raise PluginError(f"{page.file.src_uri}: a formula in a form that docs/formulas.py does not know.")
    return content


def _tex(match: re.Match) -> str:
    return " ".join(html.unescape(match[1]).split())
