"""Stands in for Cython's ``cython`` module, so that Cython is no run-time dependency.

A hot module asks ``cython.compiled`` before it uses a C pointer. Cython answers that at compile
time; where the sources run and Cython isn't installed, this module does.
"""

from __future__ import annotations

__all__ = ["compiled"]

compiled: bool = False
