"""The command `import`: has a file or an export sent, and reports what became of its rows, however it ends."""

from __future__ import annotations

import asyncio
import csv
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from enrollment_service.cli.configuration import UNFIT, read_settings
from enrollment_service.cli.endings import end
from enrollment_service.cli.target import Target, target_options

if TYPE_CHECKING:
    from enrollment_service.cli.roster import Outcome
    from enrollment_service.cli.upload import Report

SHOWN = 20  # rejected rows on the screen
MAX_SHOWN_CHARACTERS = 40  # of what stood where an id should be
# The exit statuses, beside that of a file or an option that cannot be worked with (UNFIT).
DONE, REJECTED, UNANSWERED, BRAKED, INTERRUPTED = 0, 1, 3, 4, 130
_AGAIN = "What is counted was answered; import the file again: no row counts twice."


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option(
    "--oneroster",
    type=click.Path(exists=True, path_type=Path),
    metavar="FOLDER|ZIP",
    help="Take in a OneRoster export instead of a file.",
)
@click.option("--dry-run", is_flag=True, help="Of an export: only say what would be done.")
@click.option(
    "--max-removals",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of an export: do nothing if more enrollments would be removed.",
)
@click.option("--waitlist", is_flag=True, help="Enrollments that find a course full join its waitlist.")
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
    file: Path | None,
    oneroster: Path | None,
    dry_run: bool,
    max_removals: int,
    waitlist: bool,
    chunk_size: int | None,
    rejected: Path | None,
    timeout: float,
    **options: Path | None,
) -> None:
    """Send the rows of a CSV FILE, or a OneRoster export, to the server on ENROLLMENT_LISTEN.

    The header tells what a FILE has: enrollments (student_id,course_id, or student_external_id,course_external_id),
    students (external_id,full_name,email) or courses (external_id,code,title, and any other fields of a course). What
    has a new external id is created, the rest is updated where it differs.

    Exit status 0 if every row came in, 1 if rows were rejected, 2 if the file or an option is of no use, 3 if the
    server refused or did not answer, 4 if an export would remove more than --max-removals, 130 if it was interrupted.
    However it ends, it says how far it got. Import the same again to go on: no row counts twice.
    """
    source = _source(file, oneroster, dry_run=dry_run)
    target = Target(read_settings().address, **options)
    # Told to stop in either way, it says how far it got.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _opened(rejected, source) as rejected_file:
        if oneroster is not None:
            chosen = {"dry_run": dry_run, "max_removals": max_removals, "waitlist": waitlist}
            problem, status = _taken_in(oneroster, target, rejected_file, chunk_size, timeout, chosen)
        else:
            report, problem, status = _imported(
                source, target, waitlist=waitlist, chunk_size=chunk_size, patience=timeout
            )
            _print(report, rejected_file)
    if problem:
        click.echo(problem, err=True)
    sys.exit(status)


def _source(file: Path | None, oneroster: Path | None, *, dry_run: bool) -> Path:
    """What to import; ends the command where that is not clear."""
    if (file is None) == (oneroster is None):
        raise click.UsageError("give either a FILE or --oneroster")
    if dry_run and oneroster is None:
        raise click.UsageError("--dry-run is for --oneroster")
    return file or oneroster or Path()


def _opened(rejected: Path | None, source: Path) -> TextIO | nullcontext[None]:
    """The file for rejected rows, before anything is sent; what is in it stays until there is something to write."""
    if rejected is None:
        return nullcontext()
    try:
        opened = rejected.open("a", newline="", encoding="utf-8")
    except OSError as error:
        end(f"{rejected}: {error.strerror}", UNFIT)
    if rejected.samefile(source):
        end(f"{rejected}: is the file to import", UNFIT)
    return opened


def _bar(length: int, label: str) -> Any:
    return click.progressbar(length=length, label=label, show_pos=True, file=sys.stderr)


def _imported(
    file: Path, target: Target, *, waitlist: bool, chunk_size: int | None, patience: float
) -> tuple[Report, str, int]:
    """Imports with a progress bar; how far it got, what ended it early, and the exit status."""
    from enrollment_service.cli.tables import UnreadableFileError
    from enrollment_service.cli.upload import Report, import_file
    from enrollment_service.client import ServiceError

    report = Report()
    with file.open("rb") as counted:
        total = max(0, sum(1 for _ in counted) - 1)
    try:
        with _bar(total, file.name) as bar:
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
        return report, f"{file.name}: {error}. {_AGAIN}", UNFIT
    except ServiceError as error:
        return report, f"{target.address}: {error}. {_AGAIN}", UNANSWERED
    except KeyboardInterrupt:
        return report, f"Interrupted. {_AGAIN}", INTERRUPTED
    return report, "", REJECTED if report.rejected else DONE


def _taken_in(
    path: Path,
    target: Target,
    rejected_file: TextIO | None,
    chunk_size: int | None,
    patience: float,
    chosen: dict[str, Any],
) -> tuple[str, int]:
    """Takes an export in with progress bars, and prints what became of it; what ended it early, and the exit status."""
    from enrollment_service.cli.oneroster import UnusableExportError
    from enrollment_service.cli.roster import BrakedError, Options, Outcome, take_in
    from enrollment_service.client import ServiceError

    outcome = Outcome()
    options = Options(chunk_size=chunk_size, patience=patience, **chosen)
    problem, status = "", DONE
    try:
        asyncio.run(take_in(path, target, options, outcome, _bar))
    except UnusableExportError as error:
        problem, status = f"{path.name}: {error}. Nothing was changed.", UNFIT
    except BrakedError as error:
        problem = (
            f"{error.removals:,} enrollments would be removed, and --max-removals allows {options.max_removals:,}. "
            "Nothing was changed."
        )
        status = BRAKED
    except ServiceError as error:
        problem, status = f"{target.address}: {error}. {_AGAIN}", UNANSWERED
    except KeyboardInterrupt:
        problem, status = f"Interrupted. {_AGAIN}", INTERRUPTED
    _print_outcome(outcome, rejected_file, dry_run=options.dry_run)
    return problem, status or (REJECTED if outcome.refused else DONE)


def _print_outcome(outcome: Outcome, rejected_file: TextIO | None, *, dry_run: bool) -> None:
    if dry_run:
        click.echo("A dry run: this would be done.")
    for name, counts in outcome.counts.items():
        told = ", ".join(f"{count:,} {one.replace('_', ' ')}" for one, count in counts.items() if count)
        click.echo(f"{name}: {told or 'none'}")
    click.echo(f"enrollments removed: {outcome.removed:,}")
    for name, count in outcome.left_alone.items():
        click.echo(f"{name} that the export gives up, left alone: {count:,}")
    lines = [(one, f"{one.file} line {one.line}: {_shortened(one.sourced_id)}") for one in sorted(outcome.refused)]
    _print_rejected(
        [(line, one.reason) for one, line in lines],
        ["file", "line", "sourced_id", "reason"],
        [one for one, _ in lines],
        rejected_file,
    )


def _print(report: Report, rejected_file: TextIO | None) -> None:
    for name in report.kind.counts:
        click.echo(f"{name.replace('_', ' ')}: {report.counts[name]:,}")
    rows = sorted(report.rejected)
    labels = report.kind.shown.values()
    shown = [
        ", ".join(f"{label} {_shortened(text)}" for label, text in zip(labels, row.shown, strict=True)) for row in rows
    ]
    _print_rejected(
        [(f"line {row.line}: {text}", row.reason) for row, text in zip(rows, shown, strict=True)],
        ["line", *report.kind.shown, "reason"],
        [(row.line, *row.shown, row.reason) for row in rows],
        rejected_file,
    )


def _print_rejected(
    lines: Sequence[tuple[str, str]],
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    rejected_file: TextIO | None,
) -> None:
    """Says which rows were rejected and why: on the screen, or as CSV."""
    click.echo(f"rejected: {len(lines):,}")
    for reason, count in Counter(reason for _, reason in lines).most_common():
        click.echo(f"  {reason}: {count:,}")
    if rejected_file is None:
        _show(lines[:SHOWN])
        if len(lines) > SHOWN:
            click.echo(f"  and {len(lines) - SHOWN:,} more; --rejected FILE writes all of them")
    else:
        _write(lines, [columns, *rows], rejected_file)


def _show(lines: Iterable[tuple[str, str]]) -> None:
    for line, reason in lines:
        click.echo(f"  {line}: {reason}")


def _shortened(text: str) -> str:
    shown = text[:MAX_SHOWN_CHARACTERS]
    # Whoever wrote the file must not command the terminal of whoever imports it.
    safe = shown if shown.isprintable() else ascii(shown)
    return safe if len(text) <= MAX_SHOWN_CHARACTERS else f"{safe}..."


def _write(lines: Sequence[tuple[str, str]], rows: Iterable[Sequence[object]], file: TextIO) -> None:
    try:
        if file.seekable():
            file.truncate(0)
        csv.writer(file).writerows(rows)
        file.flush()
    except OSError as error:
        click.echo(f"{file.name}: {error.strerror}; so all rejected rows are shown here.", err=True)
        _show(lines)
    else:
        click.echo(f"The rejected rows are in {file.name}.")
