"""The benchmark of the enrollment service: `python -m benchmarks`. Not part of the service, never imported by it."""
