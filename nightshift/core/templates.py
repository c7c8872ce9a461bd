"""Jinja2's environment for the templates of a package."""

from pathlib import Path

import jinja2


def templates(folder: Path, keep_trailing_newline: bool = False) -> jinja2.Environment:
    """The templates in `folder`: everything is escaped, a name that is missing is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=keep_trailing_newline,
    )
