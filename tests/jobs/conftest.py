"""Fixtures of helpers.engine, for all tests of this folder."""

from helpers.engine import project  # noqa: F401
