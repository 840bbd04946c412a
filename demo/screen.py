"""How the board looks on a terminal, from 80 x 24 upwards, and the summary at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.layout import Layout
from rich.panel import Panel
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from demo.board import Board, CrowdKind, Line, LineKind
from enrollment_service.v1 import enrollment_pb2 as pb

_WIDE = 110
_HIGH = 32
_FLASH_SECONDS = 0.5

# Shapes as well as colours: not everybody sees colours, and not every terminal has them.
_DOTS: dict[CrowdKind, tuple[str, str]] = {
    "pressed": ("·", "dim"),
    "seat": ("■", "green"),
    "wait": ("◧", "yellow"),
    "no": ("✗", "red"),
    "lost": ("?", "bold magenta"),
    "done": ("◆", "bold cyan"),
}
_LEGEND: dict[CrowdKind, str] = {
    "seat": "seat",
    "wait": "waiting",
    "no": "refused",
    "lost": "no answer",
    "done": "done, unheard",
}
_LINES: dict[LineKind, tuple[str, str]] = {
    "chapter": ("━", "bold cyan"),
    "told": (" ", ""),
    "detail": (" ", "dim"),
    "held": ("✓", "green"),
    "broken": ("✗", "bold red"),
}


def picture(board: Board, width: int, height: int) -> RenderableType:
    """The whole screen."""
    layout, below = Layout(), Layout(name="below")
    layout.split_column(
        Layout(_header(board), size=4),
        Layout(_courses(board, width), size=max(len(board.courses), 8) + 3),
        below,
        Layout(_counters(board), size=1),
    )
    happening = Panel(_Tail(board), title="What happens", title_align="left", border_style="dim")
    if height < _HIGH and board.crowd:
        below.update(_side(board) if board.crowd_is_news else happening)
    elif board.queue or board.crowd:
        below.split_row(Layout(happening, ratio=3), Layout(_side(board), ratio=2))
    else:
        below.update(happening)
    return layout


def summary(board: Board) -> RenderableType:
    """What remains on the terminal when the show is over."""
    claims = Text()
    for claim in board.claims:
        mark, style = _LINES["held" if claim.held else "broken"]
        claims.append(f"{mark} ", style=style).append(f"{claim}\n", style="" if claim.held else style)
    held = len(board.claims) - len(board.broken)
    style = "bold red" if board.broken else "bold green"
    verdict = Text(f"{held} of {len(board.claims)} claims held", style=style)
    verdict.append(f" in {board.elapsed:.0f} seconds.", style="")
    return Panel(
        Group(claims, verdict, _counters(board)), title="The morning, claim by claim", title_align="left", expand=False
    )


def _header(board: Board) -> RenderableType:
    first = Table.grid(expand=True)
    first.add_column()
    first.add_column(justify="right")
    up = board.server.startswith("pid")
    chapter = Text.assemble((board.title, "bold"), f"   {board.number}/{board.chapters}" if board.number else "")
    light = Text.assemble(("● " if up else "○ ", "green" if up else "red"), f"server {board.server}  ")
    light.append(f"{board.elapsed:4.0f} s", style="dim")
    first.add_row(chapter, light)
    caption = Text(board.caption, style="cyan", no_wrap=True, overflow="ellipsis")
    return Panel(Group(first, caption), title="A registration morning", title_align="left", border_style="cyan")


def _courses(board: Board, width: int) -> RenderableType:
    wide = width >= _WIDE
    table = Table(box=None, expand=True, padding=(0, 1), header_style="dim", show_header=bool(board.courses))
    table.add_column("Course", no_wrap=True, ratio=1)
    table.add_column("Seats", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("Left", justify="right", no_wrap=True)
    table.add_column("Waiting", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    now = time.monotonic()
    for course in board.courses.values():
        fresh = now - board.changed_at[course.course_id] < _FLASH_SECONDS
        table.add_row(*_course_cells(course, 30 if wide else 18, 20 if wide else 10), style="bold" if fresh else "")
    return Panel(table, title="Courses, from the feed", title_align="left", border_style="dim")


def _course_cells(course: pb.Course, seats_width: int, waiting_width: int) -> Iterator[RenderableType]:
    name = Text.assemble((course.code, "cyan"), " ", course.title)
    closed = course.HasField("enroll_close_time") and course.enroll_close_time.ToSeconds() <= time.time()
    if closed:
        name.append(" closed", style="red")
    yield name
    taken = course.enrolled_count
    if course.HasField("capacity"):
        share = taken / course.capacity if course.capacity else 1.0
        yield _bar(share, seats_width, "red" if share >= 1 else "yellow" if share >= 0.8 else "green", "█")
        yield Text(f"{taken}/{course.capacity}", style="bold red" if share >= 1 else "")
        yield Text(f"{course.capacity - taken}", style="bold red" if share >= 1 else "bold green")
    else:
        yield Text("no limit", style="dim green")
        yield Text(f"{taken}")
        yield Text("any", style="dim green")
    waiting, room = course.waitlisted_count, course.waitlist_capacity
    yield _bar(waiting / room if room else 0.0, waiting_width, "yellow", "▒") if room else Text("none", style="dim")
    yield Text(f"{waiting}/{room}" if room else "")


def _bar(share: float, width: int, style: str, block: str) -> Text:
    # Rounded down, so that only a full course looks full; but one student is seen.
    filled = min(width, max(math.floor(share * width), 1 if share > 0 else 0))
    return Text.assemble((block * filled, style), ("·" * (width - filled), "dim"))


def _side(board: Board) -> RenderableType:
    if board.queue:
        queue = Text()
        for place, name in enumerate(board.queue, start=1):
            queue.append(f"{place:>2} ", style="yellow").append(f"{name}\n")
        return Panel(queue, title=board.queue_title, title_align="left", border_style="yellow")
    dots, legend = Text(overflow="fold"), []
    for kind in board.crowd:
        dots.append(*_DOTS[kind])
    for kind, meaning in _LEGEND.items():
        if number := board.crowd.count(kind):
            legend.append(Text.assemble(_DOTS[kind], f" {number} {meaning} "))
    return Panel(Group(Columns(legend), dots), title=board.crowd_title, title_align="left", border_style="yellow")


def _counters(board: Board) -> Text:
    counts = board.counts
    return Text.assemble(
        " answers ", (f"{counts['answers']:,}", "bold"),
        "  events ", (f"{counts['events']:,}", "bold cyan"),
        "  refused ", (f"{counts['refused']:,}", "bold red"),
        "  promoted ", (f"{counts['promoted']:,}", "bold yellow"),
        "  calls cut off ", (f"{counts['lost']:,}", "bold magenta"),
        "  claims held ", (f"{len(board.claims) - len(board.broken)}", "bold green"),
        ("  BROKEN " + f"{len(board.broken)}" if board.broken else "", "bold red"),
        overflow="ellipsis", no_wrap=True,
    )  # fmt: skip


class _Tail:
    """The last lines that fit."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or 10
        shown = [_line(line) for line in list(self._board.lines)[-height:]]
        rows = console.render_lines(Group(*shown), options.update(height=None), pad=False)
        for row in rows[-height:]:
            yield from row
            yield Segment("\n", Style.null())


def _line(line: Line) -> RenderableType:
    mark, style = _LINES[line.kind]
    row = Table.grid(padding=(0, 1))
    row.add_row(Text(mark, style=style), Text(line.text, style=style))
    return row
