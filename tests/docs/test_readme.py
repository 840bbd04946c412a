"""Keeps the README honest where that is cheap: names, defaults and requests are those of the code. Needs no server."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor

from dev.first_calls import FIRST_CALLS
from enrollment_service.api.status import CODES
from enrollment_service.cli.main import cli
from enrollment_service.domain.errors import Reason
from enrollment_service.settings import Settings
from enrollment_service.v1 import enrollment_pb2 as pb

PROJECT = Path(__file__).parents[2]
SERVICE = pb.DESCRIPTOR.services_by_name["EnrollmentService"]
REASONS = {reason.name for reason in Reason}
Row = list[str]


@cache
def readme() -> str:
    return (PROJECT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text under a heading of level two."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", readme(), re.DOTALL | re.MULTILINE)
    assert found is not None, f"the README has no section {title!r}"
    return found[1]


def blocks(language: str, text: str | None = None) -> list[str]:
    """The fenced blocks of a language; of none for an empty one."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text or readme(), re.DOTALL | re.MULTILINE)
    return [body for name, body in fenced if name == language]


def rows(text: str) -> list[Row]:
    """The rows of all tables, without their heads."""
    bodies = re.sub(r"^.*\n\|[-|]+\|$", "", text, flags=re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in re.findall(r"^\|(.*)\|$", bodies, re.MULTILINE)]


def quoted(cell: str) -> set[str]:
    """The identifiers between backticks."""
    return {name for name in re.findall(r"`([^`]+)`", cell) if re.fullmatch(r"[A-Za-z]\w*", name)}


def grpcurl_calls() -> list[tuple[str, str]]:
    """Method and request of each call shown."""
    calls = []
    for block in blocks("console"):
        words = shlex.split(block.splitlines()[0].removeprefix("$ "))
        calls.append((words[-1].removeprefix(f"{SERVICE.full_name}/"), words[words.index("-d") + 1]))
    return calls


def shown_default(value: object) -> str:
    if value in (None, ""):
        return "unset"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def test_the_settings_table_is_that_of_the_code() -> None:
    expected = [
        [f"`ENROLLMENT_{name.upper()}`", shown_default(field.default), field.description or ""]
        for name, field in Settings.model_fields.items()
    ]
    assert rows(section("Settings")) == expected


def test_every_variable_named_anywhere_exists() -> None:
    known = {f"ENROLLMENT_{name.upper()}" for name in Settings.model_fields} | {"ENROLLMENT_DATA_DIR"}
    states = set(pb.EnrollmentState.keys())
    assert set(re.findall(r"\b(ENROLLMENT_[A-Z_]+)", readme())) <= known | states | REASONS


def test_the_method_tables_are_those_of_the_proto() -> None:
    table = {row[0].strip("`"): row[1:] for row in rows(section("Methods"))}
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
    table = {row[0]: quoted(row[1]) for row in rows(section("Errors"))}
    expected: dict[str, set[str]] = {}
    for reason, code in CODES.items():
        expected.setdefault(code.name, set()).add(reason.name)
    assert table == expected


def test_every_error_reason_of_the_proto_is_explained() -> None:
    known = {name.removeprefix("ERROR_REASON_") for name in pb.ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert known <= quoted(section("Errors"))


def test_the_states_are_those_of_the_proto() -> None:
    text = section("How enrollment works")
    states = {name.removeprefix("ENROLLMENT_STATE_") for name in pb.EnrollmentState.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    (diagram,) = blocks("mermaid", text)
    arrows = re.findall(r"^ +(\S+) --> (\S+?):? ?(?:$| )", diagram, re.MULTILINE)
    assert {state for arrow in arrows for state in arrow} == states | {"[*]"}
    transitions = [row for row in rows(text) if len(row) == 3]
    in_table = {(start, row[1]) for row in transitions for start in row[0].split(", ")}
    assert in_table == {(start.replace("[*]", "nothing"), end.replace("[*]", "nothing")) for start, end in arrows}


def test_the_refusals_are_reasons() -> None:
    refusals = [row for row in rows(section("How enrollment works")) if len(row) == 2]
    assert refusals
    assert {name for row in refusals for name in quoted(row[0])} <= REASONS


@pytest.mark.parametrize(("method", "request_text"), grpcurl_calls())
def test_the_grpcurl_requests_are_requests_of_their_methods(method: str, request_text: str) -> None:
    request: dict[str, Any] = json.loads(request_text)
    if mask := request.get("update_mask"):
        # grpcurl wants the message; the JSON mapping, and so this parser, wants camel-case names in one text.
        request["update_mask"] = ",".join(
            re.sub(r"_(\w)", lambda found: found[1].upper(), path) for path in mask["paths"]
        )
    kind = getattr(pb, SERVICE.methods_by_name[method].input_type.name)
    json_format.ParseDict(request, kind())


def test_the_first_calls_are_those_that_make_run_prints() -> None:
    assert grpcurl_calls()[: len(FIRST_CALLS)] == list(FIRST_CALLS.items())


def test_the_answers_are_those_of_the_methods() -> None:
    for (method, _), block in zip(grpcurl_calls(), blocks("console"), strict=True):
        answer = block.partition("\n")[2]
        if answer.startswith("ERROR:"):
            assert set(re.findall(r'"reason": "(\w+)"', answer)) <= REASONS - {"INTERNAL"}
            (code,) = re.findall(r"^  Code: (\w+)$", answer, re.MULTILINE)
            assert re.sub(r"(?<!^)([A-Z])", r"_\1", code).upper() in grpc.StatusCode.__members__
        else:
            kind = getattr(pb, SERVICE.methods_by_name[method].output_type.name)
            json_format.Parse(answer, kind())


def test_every_make_target_named_exists_and_the_other_way_round() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    code = re.findall(r"`([^`\n]+)`", readme()) + blocks("")
    named = {name for text in code for name in re.findall(r"\bmake ([a-z]+)", text)}
    assert named == targets


def test_every_command_named_exists_and_the_other_way_round() -> None:
    commands = {name for name, command in cli.commands.items() if not command.hidden}
    in_table = {row[0].strip("`").split()[0] for row in rows(section("Ways to run it"))} - {"make", "docker"}
    assert in_table == commands
    assert set(re.findall(r"-m enrollment_service ([a-z]+)", readme())) <= commands


def test_every_path_on_the_map_exists() -> None:
    (tree,) = [block for block in blocks("") if block.startswith("protos/")]
    paths: list[Path] = []
    folder = PROJECT
    for line in tree.splitlines():
        start = PROJECT if not line.startswith(" ") else folder
        names = re.findall(r"(?:^| {2,})([\w/]+(?:\.\w+|/))", line)
        assert names, line
        paths += [start / name for name in names]
        if not line.startswith(" "):
            folder = PROJECT / names[0]
    assert [path for path in paths if not path.exists()] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_stay_in_the_repository(name: str) -> None:
    text = (PROJECT / name).read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://", text)) <= {"postgresql://"}
    assert [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not (PROJECT / link).exists()] == []


def test_every_jump_within_the_readme_arrives() -> None:
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", readme(), flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", readme())) <= anchors


def test_the_python_example_compiles() -> None:
    (example,) = blocks("python")
    compile(example, "README.md", "exec")


def test_the_log_line_is_json_without_personal_data() -> None:
    (line,) = blocks("json")
    assert {"method", "code", "duration_ms", "peer"} <= set(json.loads(line))
    assert "example.org" not in line
