"""Tests of `deploy/` and of `docker-compose.yml`."""
