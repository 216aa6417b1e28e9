"""What counts as bytes: the one type alias for data that goes in."""

from __future__ import annotations

__all__ = ["BytesLike"]

BytesLike = bytes | bytearray | memoryview
"""Any of these may be sent or written; what gevpy hands out is ``bytes``."""
