"""What MkDocs is to do besides: formulas without a script, and links out of docs/."""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_DOCS = Path(__file__).parent
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)
_LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#]*)\)")
# Where pages of the site include files from outside of docs/.
_INCLUDED = {"benchmarks/RESULTS.md": "results.md"}


def on_page_markdown(markdown: str, page, **_) -> str:
    """Mend links that lead out of docs/, which are right where the repository is read."""
    folder = Path(page.file.abs_src_path).parent

    def resolve(found: re.Match) -> str:
        target = (folder / found[2]).resolve()
        if target.is_relative_to(_DOCS):
            return found[0]
        if not target.exists():
            raise PluginError(f"{page.file.src_path} links to {found[2]}, which does not exist")
        included = _INCLUDED.get(str(target.relative_to(_DOCS.parent)))
        return f"[{found[1]}]({included})" if included else found[1]

    return _LINK.sub(resolve, markdown)


def on_page_content(content: str, **_) -> str:
    """Make MathML, which browsers draw themselves, of what arithmatex has marked as LaTeX."""
    return _FORMULA.sub(_mathml, content)


def _mathml(found: re.Match) -> str:
    display = "block" if found[2] == "[" else "inline"
    return convert(html.unescape(found[3]), display=display)
