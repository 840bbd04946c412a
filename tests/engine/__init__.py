"""Tests of `enrollment_service/engine/`."""
