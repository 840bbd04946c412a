"""The command `import`: has a file of enrollments sent, and reports what became of its rows, however it ends."""

from __future__ import annotations

import asyncio
import csv
import signal
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from enrollment_service.cli.configuration import UNFIT, read_settings
from enrollment_service.cli.endings import end
from enrollment_service.cli.target import Target, target_options

if TYPE_CHECKING:
    from enrollment_service.cli.upload import Rejected, Report

SHOWN = 20  # rejected rows on the screen
MAX_SHOWN_CHARACTERS = 40  # of what stood where an id should be
# The exit statuses, beside that of a file or an option that cannot be worked with (UNFIT).
ENROLLED, REJECTED, UNANSWERED, INTERRUPTED = 0, 1, 3, 130


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--waitlist", is_flag=True, help="Rows that find a course full join its waitlist.")
@click.option("--chunk-size", type=click.IntRange(1, 10_000), help="Rows per chunk; by default what takes 0.1 s.")
@click.option("--rejected", type=click.Path(dir_okay=False, path_type=Path), help="Write rejected rows to this CSV.")
@target_options
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds to go on trying without an answer.",
)
def import_(
    file: Path,
    waitlist: bool,
    chunk_size: int | None,
    rejected: Path | None,
    timeout: float,
    **options: Path | None,
) -> None:
    """Enroll the rows of a CSV FILE (student_id,course_id) through the server on ENROLLMENT_LISTEN.

    Exit status 0 if every row is enrolled or waitlisted now, 1 if rows were rejected, 2 if the file or an option is of
    no use, 3 if the server refused or did not answer, 130 if it was interrupted. However it ends, it says how far it
    got. Import the file again to go on: no row counts twice.
    """
    target = Target(read_settings().address, **options)
    # Told to stop in either way, it says how far it got.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _opened(rejected, file) as rejected_file:
        report, problem, status = _imported(file, target, waitlist=waitlist, chunk_size=chunk_size, patience=timeout)
        _print(report, rejected_file)
    if problem:
        click.echo(f"{problem} What is counted was answered; import the file again: no row counts twice.", err=True)
    sys.exit(status)


def _opened(rejected: Path | None, file: Path) -> TextIO | nullcontext[None]:
    """The file for rejected rows, before anything is sent; what is in it stays until there is something to write."""
    if rejected is None:
        return nullcontext()
    try:
        opened = rejected.open("a", newline="", encoding="utf-8")
    except OSError as error:
        end(f"{rejected}: {error.strerror}", UNFIT)
    if rejected.samefile(file):
        end(f"{rejected}: is the file to import", UNFIT)
    return opened


def _imported(
    file: Path, target: Target, *, waitlist: bool, chunk_size: int | None, patience: float
) -> tuple[Report, str, int]:
    """Imports with a progress bar; how far it got, what ended it early, and the exit status."""
    from enrollment_service.cli.upload import Report, UnreadableFileError, import_file
    from enrollment_service.client import ServiceError

    report = Report()
    with file.open("rb") as counted:
        total = max(0, sum(1 for _ in counted) - 1)
    try:
        with click.progressbar(length=total, label=file.name, show_pos=True, file=sys.stderr) as bar:
            work = import_file(
                file,
                target,
                report,
                waitlist=waitlist,
                chunk_size=chunk_size,
                patience=patience,
                progress=bar.update,
            )
            asyncio.run(work)
    except UnreadableFileError as error:
        return report, f"{file.name}: {error}.", UNFIT
    except ServiceError as error:
        return report, f"{target.address}: {error}.", UNANSWERED
    except KeyboardInterrupt:
        return report, "Interrupted.", INTERRUPTED
    return report, "", REJECTED if report.rejected else ENROLLED


def _print(report: Report, rejected_file: TextIO | None) -> None:
    for name in ("enrolled", "waitlisted", "already_enrolled"):
        click.echo(f"{name.replace('_', ' ')}: {report.counts[name]:,}")
    click.echo(f"rejected: {len(report.rejected):,}")
    for reason, count in Counter(row.reason for row in report.rejected).most_common():
        click.echo(f"  {reason}: {count:,}")
    rows = sorted(report.rejected)
    if rejected_file is None:
        _show(rows[:SHOWN])
        if len(rows) > SHOWN:
            click.echo(f"  and {len(rows) - SHOWN:,} more; --rejected FILE writes all of them")
    else:
        _write(rows, rejected_file)


def _show(rows: Iterable[Rejected]) -> None:
    for row in rows:
        student_id, course_id = _shortened(row.student_id), _shortened(row.course_id)
        click.echo(f"  line {row.line}: student {student_id}, course {course_id}: {row.reason}")


def _shortened(text: str) -> str:
    shown = text[:MAX_SHOWN_CHARACTERS]
    # Whoever wrote the file must not command the terminal of whoever imports it.
    safe = shown if shown.isprintable() else ascii(shown)
    return safe if len(text) <= MAX_SHOWN_CHARACTERS else f"{safe}..."


def _write(rows: Iterable[Rejected], file: TextIO) -> None:
    from enrollment_service.cli.upload import Rejected

    try:
        if file.seekable():
            file.truncate(0)
        csv.writer(file).writerows([Rejected._fields, *rows])
        file.flush()
    except OSError as error:
        click.echo(f"{file.name}: {error.strerror}; so all rejected rows are shown here.", err=True)
        _show(rows)
    else:
        click.echo(f"The rejected rows are in {file.name}.")
