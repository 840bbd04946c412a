"""Whether a Python was built for speed. Needs nothing but that Python: `make setup` asks each one that it could take.

`python dev/interpreter.py` ends with 0 if it was, else with 1.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Mapping
from typing import Any

_OPTIONS = ("--enable-optimizations", "--with-lto")


def is_optimized(variables: Mapping[str, Any]) -> bool:
    """Whether it was built with a profile or with link-time optimization, by its `sysconfig` variables.

    A build without either costs 1.2 to 1.8 times the CPU. Debian builds with a profile but without the option, and
    clears the flags of it afterwards, so that extensions are built without them: what was never used is still there.
    """
    if any(option in str(variables.get("CONFIG_ARGS")) for option in _OPTIONS):
        return True
    return bool(variables.get("PGO_PROF_GEN_FLAG")) and variables.get("PGO_PROF_USE_FLAG") == ""


def optimized() -> bool:
    """Whether this one was."""
    return is_optimized(sysconfig.get_config_vars())


if __name__ == "__main__":
    sys.exit(0 if optimized() else 1)
