"""What a server shows to Prometheus: a collector over live counters, and a small HTTP listener of its own.

Both modules load on first use, and prometheus_client and h11 with them: a server without ``metrics=`` pays nothing.
"""

from __future__ import annotations

__all__: list[str] = []
