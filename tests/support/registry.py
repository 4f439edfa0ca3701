"""Registries for tests, on loopback: Debian's docker-registry with its own storage, and one that misbehaves."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

USERNAME = "tester"
PASSWORD = "correct horse"
_READY = "listening on"


@dataclass(frozen=True)
class Registry:
    """A running docker-registry. `push` puts images in, `blob` finds what it stores, to damage it."""

    address: str
    """127.0.0.1:PORT"""
    storage: Path
    ca_file: Path | None = None
    username: str = ""
    password: str = ""

    def push(self, layout: Path, reference: str, name: str, *, every_platform: bool = False) -> str:
        """Pushes the image `reference` of an OCI layout as `name`; answers `ADDRESS/NAME`."""
        target = f"{self.address}/{name}"
        argv = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--preserve-digests"]
        argv += ["--all"] if every_platform else []
        argv += ["--dest-creds", f"{self.username}:{self.password}"] if self.username else []
        subprocess.run([*argv, f"oci:{layout}:{reference}", f"docker://{target}"], check=True, capture_output=True)
        return target

    def blob(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        return self.storage / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"


@contextlib.contextmanager
def docker_registry(directory: Path, *, tls: bool = False, password: bool = False) -> Iterator[Registry]:
    """Starts Debian's docker-registry with its files below `directory`. It dies with the block, or with us."""
    directory.mkdir(parents=True, exist_ok=True)
    storage = directory / "storage"
    address = f"127.0.0.1:{free_port()}"
    http_section: dict[str, object] = {"addr": address}
    ca_file = None
    if tls:
        ca_file, certificate, key = make_certificates(directory)
        http_section["tls"] = {"certificate": str(certificate), "key": str(key)}
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
        "http": http_section,
    }
    if password:
        line = subprocess.run(
            ["htpasswd", "-nbB", USERNAME, PASSWORD], check=True, capture_output=True, text=True
        ).stdout.strip()
        (directory / "htpasswd").write_text(line + "\n")
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
    (directory / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with _serving(directory / "config.yml"):
        credentials = (USERNAME, PASSWORD) if password else ("", "")
        yield Registry(address, storage, ca_file, *credentials)


@contextlib.contextmanager
def _serving(config: Path) -> Iterator[None]:
    program = shutil.which("docker-registry")
    assert program, "the package docker-registry is not installed"
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", program, "serve", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if _READY in line:
            break
    else:
        raise AssertionError(f"docker-registry did not start: {''.join(said)}")
    drain = threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True)
    drain.start()
    try:
        yield
    finally:
        process.kill()
        process.wait()
        drain.join()
        process.stderr.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def make_certificates(directory: Path) -> tuple[Path, Path, Path]:
    """A CA, and a certificate for 127.0.0.1 that it signed: (CA, certificate, key)."""
    ca, ca_key, request = directory / "ca.crt", directory / "ca.key", directory / "server.csr"
    certificate, key, extensions = directory / "server.crt", directory / "server.key", directory / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for argv in (
        ["req", "-x509", *curve, "-days", "2", "-subj", "/CN=test CA", "-keyout", ca_key, "-out", ca],
        ["req", *curve, "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", request],
        [
            *("x509", "-req", "-days", "2", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial"),
            *("-extfile", extensions, "-out", certificate),
        ],
    ):
        subprocess.run(["openssl", *map(str, argv)], check=True, capture_output=True)
    return ca, certificate, key


@dataclass
class Faults:
    """How a faulty registry answers for one blob: bytes it sends, and what it does then."""

    cut_after: int | None = None
    """Sends this many bytes of a blob and closes the connection."""
    stall_after: int | None = None
    """Sends this many bytes of a blob, then nothing until `released` is set."""
    released: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)
    requests: list[str] = field(default_factory=list)
    """Paths that were asked for."""


@contextlib.contextmanager
def faulty_registry(layout: Path, manifest_digest: str, faults: Faults) -> Iterator[str]:
    """Serves one image of an OCI layout, whatever its name, with `faults`. Answers 127.0.0.1:PORT."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(layout, manifest_digest, faults))
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        faults.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(layout: Path, manifest_digest: str, faults: Faults) -> Callable[..., http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            faults.requests.append(self.path)
            if self.path == "/v2/":
                return self._answer(b"{}", "application/json")
            if "/manifests/" in self.path:
                data = (layout / "blobs" / manifest_digest.replace(":", "/")).read_bytes()
                return self._answer(data, json.loads(data)["mediaType"])
            name = self.path.rpartition("/")[2]
            data = (layout / "blobs" / name.replace(":", "/")).read_bytes()
            is_document = data.startswith(b"{")
            return self._answer(data, "application/octet-stream", blob=not is_document)

        do_HEAD = do_GET

        def _answer(self, data: bytes, media_type: str, *, blob: bool = False) -> None:
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.end_headers()
            if self.command == "HEAD":
                return
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                if not blob:
                    self.wfile.write(data)
                elif faults.cut_after is not None:
                    self.wfile.write(data[: faults.cut_after])
                    self.close_connection = True
                elif faults.stall_after is not None:
                    self.wfile.write(data[: faults.stall_after])
                    self.wfile.flush()
                    faults.stalled.set()
                    faults.released.wait(60)
                    self.wfile.write(data[faults.stall_after :])
                else:
                    self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler
