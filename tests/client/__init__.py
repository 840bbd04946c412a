"""The client for Python programs: what it promises, on real services and on one that fails as told."""
