"""The stages of the pipeline: a module per DVC stage, run as `python -m stages.NAME`. Nothing imports them.

This file is read before any of them. Where `python` is another one than that of the environment, it ends the stage with
one line that says so, instead of a traceback. It is written so that older versions of Python can read it, too.
"""

import importlib.util
import sys

_MISSING = [name for name in ("pydantic", "yaml", "numpy", "torch", "sam3") if importlib.util.find_spec(name) is None]
if _MISSING:
    sys.exit(
        "error: this python (%s) has no %s: activate the environment (source .venv/bin/activate; `make install` makes "  # noqa: UP031
        "it), then run the same command again" % (sys.executable, ", ".join(_MISSING))
    )
