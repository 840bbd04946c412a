"""The command `descriptors`: the contract as a descriptor set, for grpcurl without reflection and for proxies."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import click

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor
    from google.protobuf.descriptor_pb2 import FileDescriptorSet


@click.command()
@click.argument("file", metavar="FILE", type=click.File("wb"))
def descriptors(file: IO[bytes]) -> None:
    """Write the contract as a descriptor set (google.protobuf.FileDescriptorSet) to FILE; `-` is standard output.

    grpcurl takes it with `-protoset` where there is no reflection; Envoy makes REST of it. It is complete: whatever the
    contract imports is in it, and so are the details of errors.
    """
    file.write(descriptor_set().SerializeToString(deterministic=True))


def descriptor_set() -> FileDescriptorSet:
    """The contract of the installed stubs, each file after those that it imports."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.rpc import error_details_pb2, status_pb2

    from enrollment_service.v1 import enrollment_pb2

    files: dict[str, FileDescriptor] = {}
    # Errors carry the second and the third, which no message of the contract may name.
    for root in (enrollment_pb2.DESCRIPTOR, status_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR):
        _add(files, root)
    found = FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(found.file.add())
    return found


def _add(files: dict[str, FileDescriptor], file: FileDescriptor) -> None:
    for imported in file.dependencies:
        _add(files, imported)
    files.setdefault(file.name, file)
