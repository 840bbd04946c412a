"""What a developer's machine needs beside the service: a real PostgreSQL, and `make run`. Never in production."""
