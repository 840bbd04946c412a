"""The tests. Most speak to a real server over a real channel, on a real PostgreSQL: see `conftest.py`."""
