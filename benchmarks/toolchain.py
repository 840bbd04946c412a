"""Builds the programs in Go, the load generator and the Go peer, from pinned modules."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from google.api import annotations_pb2

from dev.golang import run, with_some_go

_HERE = Path(__file__).parent
_PROTOS = _HERE.parent / "protos"
_PROTO = "enrollment/v1/enrollment.proto"
# What it imports stands beside the stubs of that in this environment.
_IMPORTED = Path(annotations_pb2.__file__).parents[2]
_LOAD, _PEER = _HERE / "load", _HERE / "peers" / "go"
_MODULE = "peer"
_PACKAGE = f"{_MODULE}/enrollmentpb"


def build_generator(target: Path) -> Path:
    """Compile the load generator; the program."""

    def build(go: str) -> Path:
        run(_LOAD, go, "build", "-trimpath", "-o", str(target.absolute()), ".")
        return target

    return with_some_go("the load generator", build)


def build_peer(folder: Path) -> Path:
    """Compile the Go peer in a folder of its own, where its stubs are generated from the proto; the program."""
    source, tools = (folder / "source").absolute(), (folder / "tools").absolute()
    program = folder.absolute() / "peer"

    def build(go: str) -> Path:
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(_PEER, source)
        run(source, go, "install", "tool", GOBIN=str(tools))
        kinds = ("go", "go-grpc")
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{_PROTOS}", f"-I{_IMPORTED}", _PROTO]
        command += [f"--plugin={tools / f'protoc-gen-{kind}'}" for kind in kinds]
        command += [f"--{kind}_out=module={_MODULE},M{_PROTO}={_PACKAGE}:." for kind in kinds]
        run(source, *command)
        run(source, go, "build", "-trimpath", "-o", str(program), ".")
        return program

    return with_some_go("the Go peer", build)
