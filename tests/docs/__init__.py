"""Tests of `docs/`."""
