"""Tests of `enrollment_service/domain/`."""
