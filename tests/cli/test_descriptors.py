"""The contract as a descriptor set: complete, ordered, and enough for a program that has nothing else."""

from __future__ import annotations

from pathlib import Path

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from enrollment_service.cli.descriptors import descriptor_set
from enrollment_service.v1 import enrollment_pb2 as pb
from tests.support.processes import run_command

SERVICE = pb.DESCRIPTOR.services_by_name["EnrollmentService"]


async def test_it_is_written_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "enrollment.binpb"
    ran = await run_command("descriptors", f"{file}")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert FileDescriptorSet.FromString(file.read_bytes()) == descriptor_set()


async def test_a_pool_of_nothing_else_knows_every_method_and_every_detail_of_an_error() -> None:
    pool = DescriptorPool()
    for file in descriptor_set().file:  # in this order: each needs those before it
        pool.Add(file)
    service = pool.FindServiceByName(SERVICE.full_name)
    assert [method.name for method in service.methods] == [method.name for method in SERVICE.methods]
    for name in ("Status", "ErrorInfo", "BadRequest", "PreconditionFailure", "ResourceInfo", "RetryInfo"):
        assert pool.FindMessageTypeByName(f"google.rpc.{name}").name == name


def test_every_method_has_a_path_under_v1() -> None:
    for method in SERVICE.methods:
        rule = method.GetOptions().Extensions[annotations_pb2.http]
        path = next(getattr(rule, verb) for verb in ("get", "post", "patch", "delete") if getattr(rule, verb))
        assert path.startswith("/v1/"), f"{method.name} has no annotation google.api.http"


async def test_a_file_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    ran = await run_command("descriptors", f"{tmp_path / 'nowhere' / 'file'}")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "No such file or directory" in ran.stderr
