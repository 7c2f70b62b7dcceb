"""The program compared with what its users would write without it: `python -m benchmarks.run` and `.memory`."""
