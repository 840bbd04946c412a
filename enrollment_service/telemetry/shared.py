"""Metrics of several processes as one: each writes its numbers to files that they share, and their parent adds them up.

The files are named after the worker's number, not its process: whoever replaces a worker that died goes on counting
where it stopped. So no counter goes back while the parent lives, what was counted survives even SIGKILL, and there are
no more files than workers. The parent asks nobody: what a worker that stands still has counted is there, too.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, disable_created_metrics, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

# Where prometheus_client puts its files; it reads this by itself.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# Its files, and what there will be in them at the most. Taken beforehand: a process that writes into a mapped file for
# which the disk has no room dies of it.
_FILE_BYTES = {
    "counter": 512 * 1024,
    "histogram": 512 * 1024,
    "gauge_livesum": 64 * 1024,
    "gauge_livemin": 64 * 1024,
    "gauge_livemax": 64 * 1024,
}


def write_as(worker: int) -> None:
    """From now on the metrics of this process are written as those of a worker. Before `metrics` is imported."""
    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]


class SharedMetrics:
    """The parent's side."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.registry = CollectorRegistry()
        MultiProcessCollector(self.registry, folder)  # type: ignore[no-untyped-call]
        disable_created_metrics()  # type: ignore[no-untyped-call]
        says = "Workers that died and were replaced."
        self._deaths = Counter("enrollment_worker_deaths", says, registry=self.registry)

    def starting(self, worker: int) -> Mapping[str, str]:
        """What a worker that is about to start needs in its environment.

        Raises:
            OSError: there is no room for its files.
        """
        for kind, size in _FILE_BYTES.items():
            file = os.open(os.path.join(self._folder, f"{kind}_{worker}.db"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(file, 0, size)
            finally:
                os.close(file)
        return {FOLDER: self._folder}

    def ended(self, worker: int, *, died: bool) -> None:
        """Forgets what is true only of a worker that runs; what it has counted stays."""
        mark_process_dead(worker, self._folder)  # type: ignore[no-untyped-call]
        if died:
            self._deaths.inc()


@contextmanager
def shared_metrics() -> Iterator[SharedMetrics]:
    """The metrics of workers that are started inside the block."""
    with tempfile.TemporaryDirectory(prefix="enrollment-metrics-") as folder:
        yield SharedMetrics(folder)
