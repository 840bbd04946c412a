"""The chart: horizontal bars as SVG, readable on light and on dark pages."""

from __future__ import annotations

from xml.sax.saxutils import escape

from benchmarks.report import Figures

_GROUPS = {
    "list": "ListStudentCourses, calls a second",
    "enroll": "EnrollStudent, calls a second",
    "hot": "EnrollStudent in one hot course, seats granted a second",
    "import": "ImportEnrollments, rows a second",
}
_NAMES = {
    "service": "this service",
    "service_2_workers": "this service, 2 workers",
    "echo": "bare gRPC echo (the floor)",
    "native": "this service, native transport",
    "go": "Go, grpc-go + pgx",
    "go_batching": "Go that batches",
    "asyncpg": "grpc.aio + asyncpg",
    "fastapi": "FastAPI + ORM",
    "pgbench": "pgbench, no gRPC",
    "copy": "psql COPY, no gRPC",
}
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 }
  .ours { fill: #1f7a5c } .peer { fill: #9aa4ae }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .ours { fill: #3fb98c } .peer { fill: #6b7683 }
  }
"""
_WIDTH, _LEFT, _RIGHT = 760, 210, 80
_BAR, _STEP, _TITLE, _GAP = 16, 23, 24, 16


def svg(figures: Figures) -> str:
    """Draw each group of bars on a scale of its own; what was not measured is left out."""
    parts: list[str] = []
    top = 8
    for key, title in _GROUPS.items():
        group = figures.get(key)
        if isinstance(group, dict):
            known = {name: value for name, value in group.items() if isinstance(value, float)}
            parts.append(f'<text class="title" x="8" y="{top + 14}">{escape(title)}</text>')
            parts.extend(_bars(known, top + _TITLE))
            top += _TITLE + _STEP * len(known) + _GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}"'
    title = "<title>The benchmark: medians of all rounds</title>"
    return "\n".join([f'{head} role="img">', title, f"<style>{_STYLE}</style>", *parts, "</svg>", ""])


def _bars(group: dict[str, float], top: int) -> list[str]:
    longest = max(group.values(), default=1.0)
    lines = []
    for number, (name, value) in enumerate(group.items()):
        y = top + number * _STEP
        width = round((_WIDTH - _LEFT - _RIGHT) * value / longest, 1)
        kind = "ours" if name.startswith("service") else "peer"
        lines.append(f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(_NAMES[name])}</text>')
        lines.append(f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{width}" height="{_BAR}" rx="2"/>')
        lines.append(f'<text x="{_LEFT + width + 6:g}" y="{y + 13}">{value:,.0f}</text>')
    return lines
