"""The whole cycle without the kernel, over a mock transport: `python -m bench.protocol`."""
