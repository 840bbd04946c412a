"""OneRoster exports, in both versions, bulk and delta, from a folder and from a ZIP file, taken in by the command."""

from __future__ import annotations

import csv
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from enrollment_service.cli.oneroster import UnusableExportError, codes_of, read_export, short_hash
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.client import Client
from tests.support.databases import Connection
from tests.support.processes import PROJECT, run_command
from tests.support.services import Service
from tests.support.verification import wrong_in

EXAMPLE = PROJECT / "examples" / "oneroster"
Rows = Sequence[Sequence[str]]


def write_export(
    folder: Path,
    *,
    version: str = "1.1",
    mode: str = "bulk",
    users: Rows = (),
    classes: Rows = (),
    enrollments: Rows = (),
) -> Path:
    """An export with some rows; whose role is left out is a student, and what has no status is active.

    Of users: sourcedId, given name, e-mail, role, status; of classes: sourcedId, title, code, status; of enrollments:
    class, user, role, status.
    """
    folder.mkdir(exist_ok=True)
    modified = "2026-09-01T00:00:00Z"

    def write(name: str, columns: str, rows: Any) -> None:
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns.split(","), *rows])

    files = ["users", "classes", "enrollments", *(["roles"] if version == "1.2" else [])]
    write(
        "manifest", "propertyName,value", [("oneroster.version", version), *((f"file.{name}", mode) for name in files)]
    )
    full = [(*row, *("", "", "", "student", "")[len(row) :]) for row in users]
    in_users = "sourcedId,status,dateLastModified,enabledUser,orgSourcedIds,role,givenName,familyName,email"
    if version == "1.2":
        in_users = in_users.replace("orgSourcedIds,role,", "")
        rows = [(f"r-{one}", "", modified, one, "primary", role, "org") for one, _, _, role, _ in full]
        write("roles", "sourcedId,status,dateLastModified,userSourcedId,roleType,role,orgSourcedId", rows)
        write(
            "users", in_users, [(one, gone, modified, "true", name, "Lee", mail) for one, name, mail, _, gone in full]
        )
    else:
        users_now = [
            (one, gone, modified, "true", "org", role, name, "Lee", mail) for one, name, mail, role, gone in full
        ]
        write("users", in_users, users_now)
    write(
        "classes", "sourcedId,status,dateLastModified,title,classCode",
        [(row[0], row[3] if len(row) > 3 else "", modified, row[1], row[2]) for row in classes],
    )  # fmt: skip
    full = [(*row, *("", "", "student", "")[len(row) :]) for row in enrollments]
    write(
        "enrollments", "sourcedId,status,dateLastModified,classSourcedId,schoolSourcedId,userSourcedId,role",
        [(f"e-{n}", gone, modified, one, "org", user, role) for n, (one, user, role, gone) in enumerate(full)],
    )  # fmt: skip
    return folder


STUDENTS = [(f"s-{number}", f"Ann{number}", f"a{number}@x.org") for number in range(4)]
CLASSES = [("k-1", "Drawing", "ART-1"), ("k-2", "Choir", "MUS-1")]
PAIRS = [("k-1", "s-0"), ("k-1", "s-1"), ("k-2", "s-1"), ("k-2", "s-2")]


async def take_in(service: Service, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return await run_command("import", "--oneroster", f"{path}", *options, LISTEN=service.address)


async def rosters(client: Client) -> dict[str, list[str]]:
    """The external ids of the students of each course, by its external id; the enrolled, then the waiters."""
    found = {}
    for one in (await client.call("ListCourses", page_size=1000)).courses:
        roster = (await client.call("ListCourseStudents", course_id=one.course_id, page_size=1000)).enrollments
        found[one.external_id] = [enrollment.student.external_id for enrollment in roster]
    return found


async def test_the_example_is_taken_in(service: Service, database_url: str) -> None:
    foreseen = await take_in(service, EXAMPLE, "--dry-run")
    assert foreseen.returncode == 0, foreseen.stderr
    assert foreseen.stdout == (
        "A dry run: this would be done.\nstudents: 8 created\ncourses: 4 created\nenrollments: 15 enrolled\n"
        "enrollments removed: 0\nrejected: 0\n"
    )
    assert await rosters(service.client) == {}
    done = await take_in(service, EXAMPLE)
    assert (done.returncode, done.stdout) == (0, foreseen.stdout.partition("\n")[2])
    assert await rosters(service.client) == {
        "k-101": ["s-001", "s-002", "s-003"],
        "k-102": ["s-001", "s-004", "s-005", "s-006"],
        "k-103": ["s-002", "s-003", "s-007", "s-008"],
        "k-104": ["s-001", "s-002", "s-005", "s-008"],
    }
    codes = [one.code for one in (await service.client.call("ListCourses")).courses]
    assert codes == ["ART-1", short_hash("k-102"), short_hash("k-103"), short_hash("k-104")]
    again = await take_in(service, EXAMPLE)
    assert (again.returncode, again.stdout) == (
        0,
        foreseen.stdout.partition("\n")[2].replace("created", "unchanged").replace("enrolled", "already enrolled"),
    )
    assert await wrong_in(database_url) == []


@pytest.mark.parametrize("version", ["1.1", "1.2"])
@pytest.mark.parametrize("as_zip", [True, False])
async def test_users_who_are_students_and_what_is_refused(
    service: Service, tmp_path: Path, version: str, as_zip: bool
) -> None:
    users = [*STUDENTS, ("t-1", "Iris", "t@x.org", "teacher"), ("s-8", "Nomail", ""), ("s-9", "Twin", "A0@x.org")]
    classes = [*CLASSES, ("k-3", "", "PHY-1")]
    pairs = [*PAIRS, ("k-1", "t-1", "teacher"), ("k-1", "s-8"), ("k-1", "s-7"), ("k-9", "s-0"), ("k-1", "")]
    export = write_export(tmp_path / "export", version=version, users=users, classes=classes, enrollments=pairs)
    if as_zip:
        with zipfile.ZipFile(tmp_path / "export.zip", "w") as packed:
            for file in export.iterdir():
                packed.write(file, f"school/{file.name}")
        export = tmp_path / "export.zip"
    rejected = tmp_path / "rejected.csv"
    done = await take_in(service, export, "--rejected", f"{rejected}")
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[:5] == [
        "students: 4 created", "courses: 2 created", "enrollments: 4 enrolled", "enrollments removed: 0", "rejected: 7",
    ]  # fmt: skip
    assert list(csv.reader(rejected.read_text().splitlines())) == [
        ["file", "line", "sourced_id", "reason"],
        ["classes.csv", "4", "k-3", "INVALID_FIELD"],
        ["enrollments.csv", "7", "s-8 k-1", "STUDENT_NOT_FOUND"],
        ["enrollments.csv", "8", "s-7 k-1", "STUDENT_NOT_FOUND"],
        ["enrollments.csv", "9", "s-0 k-9", "COURSE_NOT_FOUND"],
        ["enrollments.csv", "10", "k-1", "names no user or no class"],
        ["users.csv", "7", "s-8", "has no e-mail address"],
        ["users.csv", "8", "s-9", "EMAIL_TAKEN"],
    ]
    assert await rosters(service.client) == {"k-1": ["s-0", "s-1"], "k-2": ["s-1", "s-2"]}
    student = (await service.client.call("GetStudent", external_id="s-0")).student
    assert (student.full_name, student.email) == ("Ann0 Lee", "a0@x.org")


async def test_what_a_bulk_export_lacks_is_removed_behind_the_brake(
    service: Service, tmp_path: Path, connection: Connection, database_url: str
) -> None:
    client = service.client
    whole = write_export(tmp_path / "export", users=STUDENTS, classes=CLASSES, enrollments=PAIRS)
    assert (await take_in(service, whole)).returncode == 0
    art, mus = [(await client.call("GetCourse", external_id=one)).course for one in ("k-1", "k-2")]
    # What the export cannot know of: capacities, a student and a course of ours, and a waiter.
    changed = pb.Course(course_id=art.course_id, capacity=2, waitlist_capacity=5, description="By hand")
    paths = ["capacity", "waitlist_capacity", "description"]
    await client.call("UpdateCourse", course=changed, update_mask={"paths": paths})
    own = await client.create_student()
    await client.enroll(own.student_id, mus.course_id)
    waiter = (await client.call("GetStudent", external_id="s-3")).student
    await client.enroll(waiter.student_id, art.course_id, on_full=pb.ON_FULL_WAITLIST)

    write_export(whole, users=STUDENTS[1:], classes=[("k-1", "Painting", "ART-1")], enrollments=[("k-1", "s-1")])
    before = await rosters(client)
    for options in (("--dry-run",), ()):
        braked = await take_in(service, whole, *options)
        assert braked.returncode == 4
        assert braked.stderr.endswith(
            "1 enrollments would be removed, and --max-removals allows 0. Nothing was changed.\n"
        )
        assert await rosters(client) == before
    assert (await client.call("GetCourse", external_id="k-1")).course.title == "Drawing"
    foreseen = await take_in(service, whole, "--dry-run", "--max-removals", "1")
    assert (foreseen.returncode, "enrollments removed: 1\n" in foreseen.stdout) == (0, True)
    done = await take_in(service, whole, "--max-removals", "1")
    assert done.returncode == 0, done.stderr
    assert "enrollments removed: 1\n" in done.stdout
    # The first waiter has the seat; no person and no course is gone, and other classes are as they were.
    assert await rosters(client) == {"k-1": ["s-1", "s-3"], "k-2": ["s-1", "s-2", ""]}
    found = (await client.call("GetCourse", external_id="k-1")).course
    assert (found.title, found.capacity, found.waitlist_capacity, found.description) == ("Painting", 2, 5, "By hand")
    assert (await client.call("GetStudent", external_id="s-0")).student.full_name == "Ann0 Lee"
    reasons = "SELECT reason FROM enrollment_events WHERE course_id = $1 AND state = 3"
    assert [row[0] for row in await connection.fetch(reasons, art.course_id)] == ["oneroster"]
    assert await wrong_in(database_url) == []


async def test_a_dry_run_foresees_which_rows_are_refused(service: Service, tmp_path: Path) -> None:
    (nobody,) = await service.client.students(1)
    taken = (await service.client.call("GetStudent", student_id=nobody)).student.email
    before = write_export(tmp_path / "before", users=STUDENTS)
    assert (await take_in(service, before)).returncode == 0
    users = [
        ("s-0", "Ann0", "elsewhere@x.org"),
        ("s-1", "Ann1", "A0@x.org"),  # what the row before gives up
        ("s-2", "Ann2", "s4@x.org"),  # what a new student has got by then
        ("s-3", "Ann3", "nothing"),
        ("s-4", "Ann4", "S4@x.org"),
        ("s-5", "Ann5", "s4@x.org"),
        ("s-6", "Ann6", taken),
        ("s-7", "Ann7", "a1@x.org"),  # had by somebody when the new ones are created
        ("s-8", "n" * 200, "s8@x.org"),
        ("s\t9", "Ann9", "s9@x.org"),
        ("s-10" * 100, "Ann10", "s10@x.org"),
    ]
    classes = [*CLASSES, ("k-3", "", "ART-3"), ("k-4", "t" * 201, "ART-4"), ("k-5", "Drawing", "é!")]
    pairs = [*PAIRS, ("k-3", "s-1"), ("k-1", "s-3"), ("k-1", "s-5"), ("k-1", "s\t9"), ("k-1", "s-10" * 100)]
    export = write_export(tmp_path / "export", users=users, classes=classes, enrollments=pairs)
    foreseen = await take_in(service, export, "--dry-run")
    done = await take_in(service, export)
    assert (foreseen.returncode, done.returncode) == (1, 1), done.stderr
    assert sorted(foreseen.stdout.splitlines()[1:]) == sorted(done.stdout.splitlines())
    assert "users.csv line 4: s-2: EMAIL_TAKEN" in done.stdout


@pytest.mark.parametrize("version", ["1.1", "1.2"])
async def test_a_delta_changes_what_it_names_and_nothing_else(service: Service, tmp_path: Path, version: str) -> None:
    export = tmp_path / "export"
    write_export(export, version=version, users=STUDENTS, classes=CLASSES, enrollments=PAIRS)
    assert (await take_in(service, export)).returncode == 0
    write_export(
        export, version=version, mode="delta",
        users=[("s-3", "Dora", "a3@x.org", "student", "active"), ("s-0", "Ann0", "a0@x.org", "student", "tobedeleted"),
               ("s-5", "Eve", "eve@x.org")],
        classes=[("k-2", "Choir", "MUS-1", "tobedeleted"), ("k-3", "Physics", "PHY-1", "active")],
        enrollments=[("k-1", "s-0", "student", "tobedeleted"), ("k-3", "s-5"), ("k-3", "s-3", "student", "active"),
                     ("k-2", "s-0", "student", "tobedeleted")],
    )  # fmt: skip
    if version == "1.2":  # who has not changed in it is not in the roles of a delta
        roles = export / "roles.csv"
        kept = [line for line in roles.read_text().splitlines(keepends=True) if ",s-3," not in line]
        roles.write_text("".join(kept))
    done = await take_in(service, export, "--max-removals", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "students: 1 created, 1 updated", "courses: 1 created", "enrollments: 2 enrolled", "enrollments removed: 1",
        "students that the export gives up, left alone: 1", "courses that the export gives up, left alone: 1",
        "rejected: 0",
    ]  # fmt: skip
    assert await rosters(service.client) == {"k-1": ["s-1"], "k-2": ["s-1", "s-2"], "k-3": ["s-3", "s-5"]}


def test_of_a_row_that_comes_twice_the_one_that_was_modified_last_counts(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", users=STUDENTS, classes=CLASSES, enrollments=PAIRS)
    with (export / "users.csv").open("a") as file:
        file.write("s-0,active,2026-08-31T00:00:00Z,true,org,student,Old,Lee,old@x.org\n")
        file.write("s-1,active,2026-09-02T00:00:00Z,true,org,student,New,Lee,new@x.org\n")
    with (export / "enrollments.csv").open("a") as file:
        file.write("e-9,tobedeleted,2026-09-02T00:00:00Z,k-1,org,s-0,student\n")
        file.write("e-10,tobedeleted,2026-08-02T00:00:00Z,k-1,org,s-1,student\n")
    read = read_export(export)
    assert [read.students[one].full_name for one in ("s-0", "s-1")] == ["Ann0 Lee", "New Lee"]
    assert list(read.enrolled) == [("s-1", "k-1"), ("s-1", "k-2"), ("s-2", "k-2")]
    assert list(read.withdrawn) == [("s-0", "k-1")]


def test_codes_are_the_schools_where_they_are_valid_and_unique(tmp_path: Path) -> None:
    codes_given = ["ART-1", "MUS 1", "mus  1", "a/b", "", "PHY-1", "x" * 41]
    classes = [(f"k-{number}", "Title", code) for number, code in enumerate(codes_given, 1)]
    taken = {"k-1": "ART-1", "other": "phy-1"}
    bulk = read_export(write_export(tmp_path / "bulk", classes=classes))
    codes = codes_of(bulk, taken)
    assert codes.pop("k-1") == "ART-1"
    assert codes == {f"k-{number}": short_hash(f"k-{number}") for number in range(2, 8)}
    assert len({*codes.values()}) == 6
    assert all(len(code) == 14 for code in codes.values())
    # A delta with the one of two classes does not know of the other.
    delta = read_export(write_export(tmp_path / "delta", mode="delta", classes=classes[1:2]))
    assert codes_of(delta, {"k-2": short_hash("k-2")}) == {"k-2": short_hash("k-2")}
    assert codes_of(delta, {}) == {"k-2": "MUS 1"}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"manifest.csv": None}, "has no manifest.csv"),
        ({"manifest.csv": "propertyName,value\noneroster.version,1.0\n"}, "oneroster.version must be 1.1 or 1.2"),
        ({"manifest.csv": "a,b\n"}, "manifest.csv: has no column propertyName"),
        ({"users.csv": None}, "has no users.csv, which manifest.csv names"),
        ({"users.csv": "sourcedId,givenName\n"}, "users.csv: has no column familyName"),
        ({"enrollments.csv": b"classSourcedId,userSourcedId,role\n\xff\xfe,x,student\n"}, "enrollments.csv: not a CSV"),
        (
            {"classes.csv": 'sourcedId,title,classCode\nk-1,Drawing,"ART-1\nk-2,Choir,MUS-1\n'},
            "classes.csv: not a CSV file in UTF-8 after line 1",
        ),
        ({"classes.csv": "sourcedId,title,classCode\nk-1," + "x" * 1_000_000}, "a line is too long"),
        (
            {"manifest.csv": "propertyName,value\noneroster.version,1.2\nfile.users,bulk\n"},
            "file.roles is absent, and only roles.csv says who is a student",
        ),
        (
            {"manifest.csv": "propertyName,value\noneroster.version,1.1\nfile.users,all\n"},
            "file.users must be bulk, delta or absent",
        ),
    ],
)
async def test_what_is_no_export_is_refused_before_anything_is_sent(
    service: Service, tmp_path: Path, spoil: dict[str, Any], said: str
) -> None:
    export = write_export(tmp_path / "export", users=STUDENTS, classes=CLASSES, enrollments=PAIRS)
    for name, content in spoil.items():
        if content is None:
            (export / name).unlink()
        else:
            (export / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UnusableExportError, match=said):
        read_export(export)
    done = await take_in(service, export)
    assert done.returncode == 2
    assert said in done.stderr
    assert (await service.client.call("ListStudents")).students == []


def test_a_file_that_is_no_archive_is_no_export(tmp_path: Path) -> None:
    file = tmp_path / "export.zip"
    file.write_text("PK")
    with pytest.raises(UnusableExportError, match="neither a folder nor a ZIP file"):
        read_export(file)


def spoiled(archive: bytes, how: str) -> bytes:
    """An archive in which every file is encrypted, packed in an unknown way, or damaged; at least it says so."""
    content = bytearray(archive)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        while at >= 0:
            if how == "encrypted":
                content[at + flags] |= 1
            elif how == "unknown":
                content[at + flags + 2] = 99
            elif signature == b"PK\x03\x04":
                packed = at + 30 + content[at + 26] + content[at + 28]
                content[packed : packed + 8] = b"\xff" * 8
            at = content.find(signature, at + 4)
    return bytes(content)


@pytest.mark.parametrize("how", ["encrypted", "unknown", "damaged"])
def test_an_archive_that_cannot_be_unpacked_is_no_export(tmp_path: Path, how: str) -> None:
    folder, file = write_export(tmp_path / "export", users=STUDENTS), tmp_path / "export.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for one in folder.iterdir():
            archive.write(one, one.name)
    file.write_bytes(spoiled(file.read_bytes(), how))
    with pytest.raises(UnusableExportError, match=r"manifest\.csv: cannot be read"):
        read_export(file)


def test_what_other_programs_put_into_an_archive_is_no_manifest(tmp_path: Path) -> None:
    folder, file = write_export(tmp_path / "export", users=STUDENTS), tmp_path / "export.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for one in folder.iterdir():
            archive.write(one, f"a folder with a long name/{one.name}")
        archive.writestr("__MACOSX/._manifest.csv", b"\0\5\x16\7")
        archive.writestr("oldmanifest.csv", b"")
    assert list(read_export(file).students) == [one for one, *_ in STUDENTS]


def test_rows_that_are_cut_off_are_refused(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", users=STUDENTS, classes=CLASSES, enrollments=PAIRS)
    for name in ("users", "enrollments"):
        with (export / f"{name}.csv").open("a", encoding="utf-8") as file:
            file.write(f"{name}-9,active")
    read = read_export(export)
    assert [(one.file, one.sourced_id, one.reason) for one in read.refused] == [
        ("users.csv", "users-9", "has too few columns"),
        ("enrollments.csv", "enrollments-9", "has too few columns"),
    ]
    assert len(read.enrolled) == len(PAIRS)
