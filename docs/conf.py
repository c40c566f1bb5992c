"""How Sphinx builds these pages: `scripts/docs`. The directives of greenio's own are in `_extensions`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

import greenio  # noqa: E402

project = "greenio"
author = "The greenio authors"
copyright = f"2026, {author}"  # noqa: A001
version = release = greenio.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "patched_names", "measured"]
exclude_patterns = ["_build", "_generated"]
source_suffix = {".md": "markdown"}
nitpicky = True
# What is not greenio's own is not looked up: a build needs no network.
nitpick_ignore_regex = [("py:.*", r"(?!greenio\.).*"), ("py:.*", r"greenio\._.*")]

default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"greenio {version}"
html_show_sourcelink = False
html_copy_source = False


def shorten(
    _app: Any, _what: str, _name: str, _obj: Any, _options: Any, signature: str | None, returns: str | None
) -> Any:
    """Write types by their last names, also where there is a ParamSpec, which Sphinx leaves as it is."""
    short = [text and re.sub(r"~?(?:\b[a-z_]\w*\.)+(?=~?[A-Z])|~", "", text) for text in (signature, returns)]
    return short[0] and short[0].replace("*args: P, **kwargs: P)", "*args: P.args, **kwargs: P.kwargs)"), short[1]


def setup(app: Any) -> None:
    """Register the hook with Sphinx."""
    app.connect("autodoc-process-signature", shorten)
