"""How the documentation is built: `make docs`. Strict, and without a network."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "innerloop"
author = "The innerloop contributors"
copyright = author
extensions = ["sphinx.ext.autodoc", "myst_parser", "_pages.extension"]
exclude_patterns = ["_build", "_pages", "reference/choose.txt", "reference/findings.txt"]
html_theme = "furo"
html_title = "innerloop"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False

nitpicky = True
# Annotations name types of other packages, which nothing is looked up in, and places inside this one. What
# text refers to is public: `innerloop.NAME` or `innerloop.PACKAGE.NAME`, and has to be there.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|nn|np|collections|pathlib|os|types|typing)\..*"),
    ("py:.*", r"innerloop\.\w+\.\w+\..*"),
    ("py:.*", r"tuple\[\w+"),  # Sphinx splits a signature with a default factory at every comma
    ("py:.*", r"(Fast|Meta|Rng|Split|TasksAxis|Tensor|Tree)|.* \| .*"),
]

autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 140
python_use_unqualified_type_names = True
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
pygments_style = "tango"
pygments_dark_style = "github-dark"
