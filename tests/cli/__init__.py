"""Tests of `enrollment_service/cli/`."""
