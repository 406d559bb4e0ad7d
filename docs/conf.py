"""The site: `make docs` builds it into docs/_build/html."""

import html
import importlib.metadata
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.nodes import SkipNode as _SkipNode
from latex2mathml.converter import convert

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

project = "spcnet"
author = "the authors of spcnet"
copyright = "the authors of spcnet, Apache-2.0"
release = importlib.metadata.version("spcnet")
version = release
html_title = "spcnet"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
html_math_renderer = "mathml"
html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["static"]
html_css_files = ["site.css"]
exclude_patterns = ["_build", "images", "static"]
suppress_warnings = ["myst.xref_missing", "myst.header"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
copybutton_prompt_text = "$ "

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
default_role = "code"  # docstrings write `names` as Markdown does
python_maximum_signature_line_length = 100
LONGEST_UNBROKEN = 26  # letters of code that a phone has room for on one line
nitpicky = False


def as_restructured(lines: list[str]) -> None:
    """Fenced code and list items of a docstring, which are Markdown, in Sphinx's own form."""
    found: list[str] = []
    fenced, listed = False, False
    for line in lines:
        fence = re.match(r"(\s*)```(\w*)\s*$", line)
        if fence:
            fenced = not fenced
            found += ["", f"{fence[1]}.. code-block:: {fence[2] or 'text'}", ""] if fenced else [""]
            continue
        item = re.match(r"\s*[-*] ", line) is not None
        if item and not listed and not fenced and found and found[-1].strip():
            found.append("")  # a list begins after an empty line
        listed = item or (listed and line.startswith(" "))
        found.append(f"    {line}" if fenced else _escaped(line))
    lines[:] = found


def _escaped(line: str) -> str:
    """Stars and bars as themselves, outside of `code`; a letter and a point are no item of a list."""
    parts = line.split("`")
    line = "`".join(re.sub(r"([*|])", r"\\\1", part) if place % 2 == 0 else part for place, part in enumerate(parts))
    return re.sub(r"(^|: )([A-Z])\.(\s|$)", r"\1\2\\.\3", line)


def _inline(writer, node):
    """A formula that the browser draws by itself: no script, no network."""
    writer.body.append(convert(node.astext()))
    raise _SkipNode


def _block(writer, node):
    """The same on a line of its own, with its number beside it."""
    text, _, rest = node.astext().partition(r"\tag{")
    number = f'<span class="eqno">({html.escape(rest.rpartition("}")[0])})</span>' if rest else ""
    formula = convert(text, display="block")
    writer.body.append(f'<div class="math"><div class="formula">{formula}</div>{number}</div>')
    raise _SkipNode


def keep_short_code_whole(app, doctree, docname):
    """Mark code of few letters, which `site.css` keeps on one line: else `--option` breaks behind its dashes."""
    for node in doctree.findall(nodes.literal):
        if len(node.astext()) <= LONGEST_UNBROKEN:
            node["classes"].append("short")


def setup(app):
    """Let formulas become MathML, and autodoc's texts pass through `as_restructured` before napoleon reads them."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.connect("doctree-resolved", keep_short_code_whole)
    app.connect("autodoc-process-docstring", lambda *told: as_restructured(told[-1]), priority=1)
