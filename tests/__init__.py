"""Over real channels, on a real PostgreSQL; the folders are those of the package."""

import os

# Tests start programs while gRPC runs in their own process. Its handlers for a fork would restart its threads in the
# child, which then fail on descriptors that are closed there, and take the program with them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
