"""Names, defaults and tables in the documents are those of the code. Needs no server."""

from __future__ import annotations

import json
import re

from google.protobuf.descriptor import Descriptor

from benchmarks import publish
from benchmarks.scale import TARGETS
from dev.first_calls import FIRST_CALLS
from enrollment_service.api.status import CODES
from enrollment_service.cli.configuration import DEVELOPMENT
from enrollment_service.cli.endings import UNUSABLE
from enrollment_service.cli.main import cli
from enrollment_service.domain.errors import Reason
from enrollment_service.settings import Settings
from enrollment_service.store.faults import Fault
from enrollment_service.store.rights import RIGHTS, VERSION_TABLE
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.docs.documents import (
    EVERYWHERE,
    PAGES,
    PROJECT,
    SERVICE,
    blocks,
    examples,
    quoted,
    read,
    rows,
    section,
)
from tests.support.exposition import documented_metrics
from tests.support.mistakes import MISTAKES

REASONS = {reason.name for reason in Reason}


def shown_default(value: object) -> str:
    if value in (None, ""):
        return "unset"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def test_the_settings_table_is_that_of_the_code() -> None:
    expected = [
        [f"`ENROLLMENT_{name.upper()}`", shown_default(field.default), field.description or ""]
        for name, field in Settings.model_fields.items()
    ]
    assert rows(section("docs/operating.md", "Settings")) == expected


def test_the_metrics_table_is_that_of_the_code() -> None:
    expected = [[name, metric.kind, metric.labels, metric.says] for name, metric in documented_metrics().items()]
    assert rows(section("docs/operating.md", "Metrics")) == expected


def test_every_variable_named_anywhere_exists() -> None:
    known = {f"ENROLLMENT_{name.upper()}" for name in Settings.model_fields} | DEVELOPMENT
    states = set(pb.EnrollmentState.keys())
    for name in EVERYWHERE:
        assert set(re.findall(r"\b(ENROLLMENT_[A-Z_]+)", read(name))) <= known | states | REASONS, name


def test_the_method_tables_are_those_of_the_proto() -> None:
    table = {row[0].strip("`"): row[1:] for row in rows(section("docs/api.md", "Methods"))}
    assert list(table) == [method.name for method in SERVICE.methods]
    for method in SERVICE.methods:
        request, answer, refusals = table[method.name]
        assert_covers(request, method.input_type)
        assert_covers(answer, method.output_type)
        assert quoted(refusals) - REASONS <= {"as_of"}, method.name


def assert_covers(cell: str, message: Descriptor) -> None:
    """Every field of the message is named, and nothing that is no field of it or of what it holds."""
    fields = set(message.fields_by_name)
    inner = {
        name
        for field in message.fields
        if field.message_type is not None and field.message_type.file is pb.DESCRIPTOR
        for name in field.message_type.fields_by_name
    }
    assert fields <= quoted(cell), message.name
    assert quoted(cell) <= fields | inner, message.name


def test_the_errors_table_is_that_of_the_code() -> None:
    table = {row[0]: quoted(row[1]) for row in rows(section("docs/api.md", "Errors"))}
    expected: dict[str, set[str]] = {}
    for reason, code in CODES.items():
        expected.setdefault(code.name, set()).add(reason.name)
    assert table == expected


def test_every_error_reason_of_the_proto_is_explained() -> None:
    known = {name.removeprefix("ERROR_REASON_") for name in pb.ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert known <= quoted(section("docs/api.md", "Errors"))


def test_the_states_are_those_of_the_proto() -> None:
    text = read("docs/enrollment.md")
    states = {name.removeprefix("ENROLLMENT_STATE_") for name in pb.EnrollmentState.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    (diagram,) = blocks("mermaid", text)
    arrows = re.findall(r"^ +(\S+) --> (\S+?):? ?(?:$| )", diagram, re.MULTILINE)
    assert {state for arrow in arrows for state in arrow} == states | {"[*]"}
    transitions = [row for row in rows(text) if len(row) == 3]
    in_table = {(start, row[1]) for row in transitions for start in row[0].split(", ")}
    assert in_table == {(start.replace("[*]", "nothing"), end.replace("[*]", "nothing")) for start, end in arrows}


def test_the_refusals_are_reasons() -> None:
    refusals = rows(section("docs/enrollment.md", "Refusals"))
    assert refusals
    assert {name for row in refusals for name in quoted(row[0])} <= REASONS


def test_the_rest_methods_and_codes_exist() -> None:
    methods, statuses = [
        rows(table)
        for table in re.findall(r"(?:^\|.*\n)+", section("docs/clients.md", "Coming from REST"), re.MULTILINE)
    ]
    assert {name for row in methods for name in quoted(row[1])} <= {method.name for method in SERVICE.methods}
    codes = {code.name for code in CODES.values()} | {"OK"}
    assert {code for row in statuses for code in re.findall(r"\b[A-Z_]{2,}\b", row[1])} - REASONS <= codes


def test_the_first_calls_are_those_that_make_run_prints() -> None:
    shown = [(example.method, example.request) for example in examples()]
    assert shown[: len(FIRST_CALLS)] == list(FIRST_CALLS.items())


def test_every_make_target_named_exists_and_the_other_way_round() -> None:
    targets = set(re.findall(r"^([a-z]+):.*## ", read("Makefile"), re.MULTILINE))
    code = [text for name in EVERYWHERE for text in [*re.findall(r"`([^`\n]+)`", read(name)), *blocks("", read(name))]]
    named = {name for text in code for name in re.findall(r"\bmake ([a-z]+)", text)}
    assert named == targets


def test_contributing_lists_every_make_target() -> None:
    listed = {row[0].strip("`").removeprefix("make ") for row in rows(section("CONTRIBUTING.md", "Set up"))}
    assert listed == set(re.findall(r"^([a-z-]+):.*## ", read("Makefile"), re.MULTILINE))


def test_every_command_named_exists_and_the_other_way_round() -> None:
    commands = {name for name, command in cli.commands.items() if not command.hidden}
    in_table = {row[0].strip("`").split()[0] for row in rows(section("docs/operating.md", "The command line"))}
    assert in_table == commands
    for name in PAGES:
        assert set(re.findall(r"-m\s+enrollment_service\s+([a-z]+(?:-[a-z]+)*)", read(name))) <= commands, name


def test_what_is_said_of_each_mistake_stands_in_the_table() -> None:
    table = rows(section("docs/operating.md", "When something is wrong"))
    unusable = " ".join(seen for seen, _, _, status in table if status == f"{UNUSABLE}")
    assert {mistake.said.removeprefix("SQLSTATE ") for mistake in MISTAKES if "SQLSTATE" in mistake.said} <= set(
        re.findall(r"\b[0-9A-Z]{5}\b", unusable)
    )
    faults = {fault for seen, *_ in table for fault in re.findall(r"fault `([A-Z]+)`", seen)}
    assert faults == {Fault.EXHAUSTED.name, Fault.MISCONFIGURED.name}


def test_the_rights_of_the_role_that_serves_are_those_of_the_code() -> None:
    table = {frozenset(quoted(row[0])): row[1] for row in rows(section("docs/operating.md", "Two roles"))}
    changed = {rights.table for rights in RIGHTS if rights.update and rights.delete}
    appended = {rights.table for rights in RIGHTS if not rights.update and not rights.delete}
    assert len(changed) + len(appended) == len(RIGHTS)
    assert "updates and deletes" in table[frozenset(changed)]
    assert table[frozenset(appended)] == "Reads and appends."
    assert table[frozenset({VERSION_TABLE})] == "Reads."


def test_every_path_on_the_map_exists() -> None:
    (tree,) = [block for block in blocks("", read("README.md")) if block.startswith("protos/")]
    paths = []
    folder = PROJECT
    for line in tree.splitlines():
        start = PROJECT if not line.startswith(" ") else folder
        names = re.findall(r"(?:^| {2,})([\w/]+(?:\.\w+|/))", line)
        assert names, line
        paths += [start / name for name in names]
        if not line.startswith(" "):
            folder = PROJECT / names[0]
    assert [path for path in paths if not path.exists()] == []


def test_every_folder_of_the_service_is_on_the_map() -> None:
    package = PROJECT / "enrollment_service"
    folders = {f"  {path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert {folder for folder in folders if f"\n{folder} " not in section("README.md", "The map")} == set()


def test_the_log_line_is_json_without_personal_data() -> None:
    (line,) = blocks("json", section("docs/operating.md", "Logs"))
    assert {"method", "code", "duration_ms", "peer"} <= set(json.loads(line))
    assert "example.org" not in line


def test_the_compose_file_has_no_password() -> None:
    compose = read("docker-compose.yml")
    logins = re.findall(r"postgresql://([^@\s]*)@", compose)
    assert logins == ["enrollment", "enrollment_migrator", "enrollment_app", "enrollment_app"]
    variables = re.findall(r"^ +(\w*PASSWORD\w*):", compose, re.MULTILINE)
    assert [name for name in variables if not name.endswith("_FILE")] == []
    assert len(variables) == 4


def test_the_benchmark_is_the_published_one() -> None:
    for document, tables in publish.rendered().items():
        shown = {marker: publish.block(marker).findall(read(document)) for marker in tables}
        assert {marker: [found[1] for found in parts] for marker, parts in shown.items()} == {
            marker: [table] for marker, table in tables.items()
        }


def test_every_target_has_a_row() -> None:
    shown = [row[0] for row in rows(section("docs/performance.md", "The targets"))]
    assert shown == [target.label for target in TARGETS]


def test_the_readme_stays_short() -> None:
    assert len(read("README.md").splitlines()) <= 150
