"""Everything that talks to PostgreSQL: the tables, the engine, one file of statements per subject.

Knows nothing of gRPC or of the generated stubs.
"""
