"""A registration morning played against a real server, to watch: `python -m demo`. Nothing here is the service."""

import os

# gRPC reads these when it is imported. Servers die here on purpose, and nothing forks while calls are under way:
# gRPC need not write about either across the picture.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
