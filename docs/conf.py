"""Builds the manual: `python -m sphinx -W -b html docs results/manual`.

Pages of the reference, the cells and the experiments are written by `docs/manual` from docstrings and committed
results, at the beginning of a build; git does not keep them. Notebooks are Markdown files, executed at every build.
"""

import importlib.metadata
import os
import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # notebooks show the same on every machine

from manual import cells, docstrings, experiments, links, public, reference  # noqa: E402

project = html_title = "rnnjax"
author = "The rnnjax authors"
copyright = "the rnnjax authors"
release = version = importlib.metadata.version("rnnjax")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton", "sphinx_design"]
exclude_patterns = ["manual"]
highlight_language = "none"  # an indented block of a docstring is an equation or a table
smartquotes = False  # --quick is an option

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

autodoc_inherit_docstrings = False  # the methods of a cell are described once, at `Cell`
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_show_sourcelink = False
home = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["urls"]["Home"]
if home != "HOME_URL":  # the address is known
    html_theme_options = {"footer_icons": [{"name": "Source", "url": home, "html": "Source", "class": ""}]}
copybutton_exclude = ".linenos, .gp, .go"


def setup(app):
    names = public.names()
    reference.write(DOCS / "reference", names)
    cells.write(DOCS / "cells", names)
    experiments.write(DOCS / "experiments")
    app.connect("autodoc-process-docstring", docstrings.process)
    app.connect("autodoc-skip-member", docstrings.skip)
    links.connect(app, names)
    reference.check_coverage(app, names)
