"""Tests of `enrollment_service/api/`."""
