"""Tests of `dev/`."""
