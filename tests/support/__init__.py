"""What the tests share: databases, services, server processes, a client, and how a refusal is checked."""
