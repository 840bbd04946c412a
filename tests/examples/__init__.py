"""Tests of `examples/`: each program is run as a process, and killed."""
