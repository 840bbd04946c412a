"""Tests of `enrollment_service/telemetry/`."""
