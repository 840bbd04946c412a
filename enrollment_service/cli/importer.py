"""The command `import`: has a file of enrollments sent, and reports what became of its rows."""

from __future__ import annotations

import asyncio
import csv
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enrollment_service.cli.configuration import read_settings

if TYPE_CHECKING:
    from enrollment_service.cli.upload import Report

SHOWN = 20  # rejected rows on the screen


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--waitlist", is_flag=True, help="Rows that find a course full join its waitlist.")
@click.option("--chunk-size", type=click.IntRange(1, 10_000), default=5_000, show_default=True, help="Rows per chunk.")
@click.option("--rejected", type=click.Path(dir_okay=False, path_type=Path), help="Write rejected rows to this CSV.")
def import_(file: Path, waitlist: bool, chunk_size: int, rejected: Path | None) -> None:
    """Enroll the rows of a CSV FILE (student_id,course_id) through the server on ENROLLMENT_LISTEN.

    Exit status 0 if every row is enrolled or waitlisted now, 1 if rows were rejected.
    """
    sys.exit(_import(file, read_settings().address, waitlist=waitlist, chunk_size=chunk_size, rejected=rejected))


def _import(file: Path, address: str, *, waitlist: bool, chunk_size: int, rejected: Path | None) -> int:
    """Imports with a progress bar, prints the report; returns the exit status."""
    from enrollment_service.cli.upload import UnreadableFileError, import_file
    from enrollment_service.client import ServiceError

    with file.open("rb") as counted:
        total = max(0, sum(1 for _ in counted) - 1)
    try:
        with click.progressbar(length=total, label=file.name, show_pos=True, file=sys.stderr) as bar:
            report = asyncio.run(
                import_file(file, address, waitlist=waitlist, chunk_size=chunk_size, progress=bar.update)
            )
    except UnreadableFileError as error:
        click.echo(f"{file.name}: {error}", err=True)
        return 2
    except ServiceError as error:
        click.echo(f"{address}: {error} Import the file again: no row counts twice.", err=True)
        return 2
    _print(report, rejected)
    return 1 if report.rejected else 0


def _print(report: Report, rejected: Path | None) -> None:
    from enrollment_service.cli.upload import Rejected

    for name in ("enrolled", "waitlisted", "already_enrolled"):
        click.echo(f"{name.replace('_', ' ')}: {report.counts[name]:,}")
    click.echo(f"rejected: {len(report.rejected):,}")
    for reason, count in Counter(row.reason for row in report.rejected).most_common():
        click.echo(f"  {reason}: {count:,}")
    if rejected is not None:
        with rejected.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([Rejected._fields, *report.rejected])
        click.echo(f"The rejected rows are in {rejected}.")
        return
    for row in report.rejected[:SHOWN]:
        click.echo(f"  line {row.line}: student {row.student_id}, course {row.course_id}: {row.reason}")
    if len(report.rejected) > SHOWN:
        click.echo(f"  and {len(report.rejected) - SHOWN:,} more; --rejected FILE writes all of them")
