"""Stubs generated from protos/enrollment/v1/enrollment.proto by `make stubs`."""
