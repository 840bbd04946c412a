"""Who works beside the benchmark is noticed, and the benchmark's own work is not taken for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from benchmarks.machine import DISTURBED, Meter, cpu_seconds, interpreter

SPIN = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass"


def test_a_stranger_disturbs_a_phase() -> None:
    # A grandchild whose parent has ended belongs to nobody here.
    spin = f"[sys.executable, '-c', {SPIN.format(seconds=60)!r}]"
    stranger = f"import subprocess, sys; print(subprocess.Popen({spin}, stdout=subprocess.DEVNULL).pid)"
    pid = int(subprocess.run([sys.executable, "-c", stranger], stdout=subprocess.PIPE, text=True, check=True).stdout)
    try:
        meter = Meter(lambda: None)
        began = cpu_seconds([pid])
        with meter.phase("busy"):
            deadline = time.monotonic() + 30
            while cpu_seconds([pid]) - began < 0.3 and time.monotonic() < deadline:
                time.sleep(0.05)
    finally:
        os.kill(pid, 9)
    assert meter.taken()["busy"] > DISTURBED
    assert meter.disturbed() == ["busy"]


def test_what_children_took_is_ours() -> None:
    """Also once they have ended, as the load generator has after each slice."""
    before = cpu_seconds([os.getpid()])
    subprocess.run([sys.executable, "-c", SPIN.format(seconds=0.3)], check=True)
    assert cpu_seconds([os.getpid()]) - before >= 0.25


def test_the_interpreter_is_named() -> None:
    found = interpreter()
    assert isinstance(found["optimized"], bool)
    assert sys.version.split()[0] in str(found["version"])
