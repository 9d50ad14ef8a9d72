"""Sphinx configuration."""

from importlib.metadata import version as installed_version

project = "sklearn-transformers"
author = "The sklearn-transformers developers"
copyright = f"2026, {author}"  # noqa: A001
release = version = installed_version("sklearn-transformers")

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
autosummary_generate = False  # numpydoc brings autosummary; the reference is one page
default_role = "literal"

myst_heading_anchors = 3
autodoc_default_options = {"members": True, "member-order": "bysource"}
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_title = project
html_sidebars = {"**": []}
autodoc_typehints = "none"
maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
smartquotes = False
