"""Tests of `enrollment_service/store/`."""
