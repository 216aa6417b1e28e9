"""Echo servers on the same work, one module per peer: `python -m bench.system.NAME --port 0`."""
