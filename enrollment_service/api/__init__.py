"""The gRPC door: bytes become commands and queries, answers and errors become bytes."""
