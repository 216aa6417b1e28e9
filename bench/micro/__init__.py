"""Single structures, without loop or kernel: `python -m bench.micro`."""
