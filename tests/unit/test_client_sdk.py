"""The SDK over a real socket: both clients, one vocabulary, errors as one tree, a daemon started when there is none."""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sandboxd
from sandboxd.api import sandboxd_pb2 as api
from sandboxd.base.errors import CATALOGUE, NAME_IN_USE, SandboxdError
from sandboxd.client import autostart, bridge, locate, translate
from sandboxd.client.aio import AsyncClient
from sandboxd.client.images import AsyncImages
from sandboxd.client.locate import Location
from sandboxd.client.process import AsyncProcess
from sandboxd.client.sandbox import AsyncSandbox
from sandboxd.daemon.status import to_detail
from tests.support.fake_daemon import FakeDaemon, fake_daemon

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with fake_daemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[sandboxd.Client]:
    with sandboxd.Client(daemon.socket) as client:
        yield client


# --- one vocabulary ---


@pytest.mark.parametrize(
    ("asynchronous", "synchronous"),
    [
        (AsyncClient, sandboxd.Client),
        (AsyncSandbox, sandboxd.Sandbox),
        (AsyncProcess, sandboxd.Process),
        (AsyncImages, sandboxd.Images),
    ],
)
def test_both_clients_have_the_same_words(asynchronous: type, synchronous: type) -> None:
    words, plain = _public(asynchronous), _public(synchronous)
    assert words.keys() == plain.keys()
    for name in words:
        one, other = (inspect.signature(found).parameters for found in (words[name], plain[name]))
        assert list(one) == list(other), name
        assert [item.default for item in one.values()] == [item.default for item in other.values()], name


def _public(kind: type) -> dict[str, Any]:
    return {name: found for name, found in vars(kind).items() if not name.startswith("_") and inspect.isfunction(found)}


def test_every_call_exists_with_these_messages() -> None:
    """The names of methods are text: here each is held against the protocol."""
    pattern = re.compile(
        r"\.(unary|stream|duplex|upload)\(\s*\"(\w+)/(\w+)\",\s*(.*?)(?:, (?:shim_)?(?:pb2?)\.(\w+)|, pb\.(\w+))[,)]",
        re.DOTALL,
    )
    found = set()
    for path in (ROOT / "sandboxd/client").glob("*.py"):
        for match in pattern.finditer(path.read_text()):
            kind, service, method, request, answer = match[1], match[2], match[3], match[4], match[5] or match[6]
            known = api.DESCRIPTOR.services_by_name[service].methods_by_name[method]
            assert known.output_type.name == answer, (service, method)
            if request.startswith("pb."):
                assert known.input_type.name == re.split(r"\W", request)[1]
            assert known.client_streaming == (kind in ("duplex", "upload")), method
            assert known.server_streaming == (kind in ("stream", "duplex")), method
            found.add(f"{service}/{method}")
    every = {f"{s.name}/{m.name}" for s in api.DESCRIPTOR.services_by_name.values() for m in s.methods}
    assert every - found <= {"Images/Pull", "Images/Load"}  # their names are arguments


def test_the_package_exports_the_sdk() -> None:
    assert sandboxd.Client is sandboxd.client.Client
    for name in sandboxd.client.__all__:
        assert getattr(sandboxd, name) is getattr(sandboxd.client, name)
    stub = (ROOT / "sandboxd/__init__.pyi").read_text()
    assert set(re.findall(r"import \w+ as (\w+)", stub)) == set(sandboxd.client.__all__)
    with pytest.raises(AttributeError):
        _ = sandboxd.nothing  # type: ignore[attr-defined]


# --- use ---


def test_run_and_exec(daemon: FakeDaemon, client: sandboxd.Client) -> None:
    with client.run("busybox", ["sh"], name="web", env={"A": "b"}) as sandbox:
        assert sandbox.info.state == "running" and sandbox.name == "web"
        result = sandbox.exec(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"in")
        assert (result.exit_status, result.stdout, result.stderr, result.text) == (3, b"in", b"err\n", "in")
        with pytest.raises(SandboxdError) as caught:
            sandbox.exec(["sh", "-c", "echo broken >&2; exit 1"], check=True)
        assert caught.value.kind.code == "command_failed" and "broken" in caught.value.cause
        with sandbox.popen(["sh", "-c", "read x; echo $x; kill -9 $$"], stdin=True) as process:
            process.write(b"line\n")
            assert [(piece.stream, piece.data) for piece in process] == [("stdout", b"line\n")]
            assert process.wait().exit_status == 137
        assert sandbox.stats().memory_bytes == 5 << 20
        assert sandbox.processes() == [1, 7]
        assert [item.id for item in client.list()] == [sandbox.id]
    assert daemon.sandboxes.boxes == {}
    assert daemon.sandboxes.runs[0].config.stdin  # so that a shell waits


def test_exec_with_big_input_and_output(client: sandboxd.Client) -> None:
    data = os.urandom(1 << 20) * 4
    with client.run("busybox", ["sh"]) as sandbox:
        assert sandbox.exec(["cat"], input=data).stdout == data
        for _ in range(5):  # a command that reads nothing keeps its exit status
            assert sandbox.exec(["sh", "-c", "exec <&-; exit 4"], input=data).exit_status == 4


def test_exec_with_a_timeout(daemon: FakeDaemon, client: sandboxd.Client) -> None:
    with client.run("busybox", ["sh"]) as sandbox:
        with pytest.raises(TimeoutError):
            sandbox.exec(["sleep", "100"], timeout_s=0.3)
        assert daemon.sandboxes.signals == [signal.SIGKILL]


def test_leaving_an_iterator_ends_the_call(client: sandboxd.Client) -> None:
    with client.run("busybox", ["sh"]) as sandbox, sandbox.popen(["yes"]) as process:
        for piece in process:
            assert piece.data.startswith(b"y\n")
            break


def test_an_exception_inside_is_not_hidden(daemon: FakeDaemon, client: sandboxd.Client) -> None:
    with pytest.raises(ZeroDivisionError), client.run("busybox", ["sh"]) as sandbox:
        sandbox.remove(force=True)
        _ = 1 / 0
    assert daemon.sandboxes.boxes == {}


def test_asynchronous(daemon: FakeDaemon) -> None:
    async def use() -> None:
        async with AsyncClient(daemon.socket) as client, await client.run("busybox", ["sh"]) as sandbox:
            results = await asyncio.gather(*(sandbox.exec(["echo", str(number)]) for number in range(8)))
            assert [result.text for result in results] == [f"{number}\n" for number in range(8)]
            async with await client.run_attached("busybox", ["echo", "hi"], remove=True) as process:
                assert [piece.data async for piece in process] == [b"hi\n"]
                assert process.exit and process.exit.by_itself and process.stages

    asyncio.run(use())


def test_images(daemon: FakeDaemon, client: sandboxd.Client) -> None:
    seen: list[str] = []
    image = client.images.pull(
        "busybox", username="me", password="secret", tls_verify=False, on_progress=lambda step: seen.append(step.stage)
    )
    assert seen == ["resolve", "fetch", "fetch"] and image.config == {"architecture": "amd64"}
    assert daemon.images.pulls[0].HasField("tls_verify") and not daemon.images.pulls[0].tls_verify
    assert client.images.remove("busybox").freed_bytes == 4 << 20
    assert [item.id for item in client.images.list()] == [image.id]


def test_files(daemon: FakeDaemon, client: sandboxd.Client, tmp_path: Path) -> None:
    fake = daemon.sandboxes
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = 300_000
        tar.addfile(info, io.BytesIO(b"z" * info.size))
    fake.downloads["/srv/file"] = out.getvalue()
    fake.paths["/srv/file"] = api.StatPathResponse(exists=True, mode=0o100644, size=300_000)
    fake.paths["/srv"] = api.StatPathResponse(exists=True, mode=0o40755)
    with client.run("busybox", ["sh"]) as sandbox:
        assert sandbox.read_file("/srv/file") == b"z" * 300_000
        sandbox.copy_out("/srv/file", tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == b"z" * 300_000
        sandbox.write_file("/srv/new", "text", mode=0o600)
        target, data = fake.uploads[-1]
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert (target.path, tar.getnames(), tar.getmember("new").mode) == ("/srv", ["new"], 0o600)
        (tmp_path / "dir").mkdir()
        (tmp_path / "dir/a").write_bytes(b"a" * 500_000)
        sandbox.copy_in(tmp_path / "dir", "/srv")
        target, data = fake.uploads[-1]
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert (target.path, tar.getnames()) == ("/srv", ["dir", "dir/a"])
        assert sandbox.stat_path("/nosuch") is None
        with pytest.raises(SandboxdError) as caught:
            sandbox.read_file("/nosuch")
        assert caught.value.kind.code == "path_not_found"


def test_a_command_that_is_a_string_is_refused(client: sandboxd.Client) -> None:
    with pytest.raises(SandboxdError) as caught:
        client.run("busybox", "sh")
    assert "list" in caught.value.cause


def test_calling_from_a_callback_does_not_hang(client: sandboxd.Client) -> None:
    with pytest.raises(RuntimeError):
        client.images.pull("busybox", on_progress=lambda _: client.list() and None)


def test_a_fork_gets_a_loop_of_its_own() -> None:
    before = bridge.bridge()
    bridge._forget()
    try:
        assert bridge.bridge() is not before
        bridge.bridge().close()
    finally:
        bridge._current = before


# --- errors ---


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=list(CATALOGUE))
def test_every_error_survives_the_way(kind: Any) -> None:
    error = SandboxdError(kind, **dict.fromkeys(kind.fields(), "a {value}"), extra="x")
    back = translate.from_detail(to_detail(error))
    assert back.kind is kind and back.to_json() == error.to_json()


def test_errors_of_another_version_keep_their_words() -> None:
    detail = api.ErrorDetail(
        code="new_kind", message="it {broke}", cause="c", remedy="r", exit_status=126, retryable=True
    )
    back = translate.from_detail(detail)
    assert (back.kind.code, back.message, back.kind.exit_status, back.kind.retryable) == (
        "new_kind",
        "it {broke}",
        126,
        True,
    )
    other = api.ErrorDetail(code="name_in_use", message="other words", cause="c", remedy="r")
    assert translate.from_detail(other).message == "other words"


def test_errors_of_calls(daemon: FakeDaemon, client: sandboxd.Client) -> None:
    with pytest.raises(SandboxdError) as caught:
        client.get("nosuch")
    assert caught.value.kind.code == "sandbox_not_found"
    with pytest.raises(SandboxdError) as caught:
        client.run("error/name_in_use")
    assert caught.value.kind is NAME_IN_USE
    client.list()
    daemon.stop()
    with pytest.raises(SandboxdError) as caught:
        client.list()
    assert caught.value.kind.code in ("daemon_lost", "daemon_unreachable")


# --- where the daemon is, and starting one ---


def test_location(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('run_dir = "/run/x"\n')
    named = {"SANDBOXD_CONFIG": str(config)}
    assert locate.locate(environ=named).socket == "/run/x/sandboxd.sock"
    assert locate.locate(environ={**named, "SANDBOXD_SOCKET": "/s"}).socket == "/s"
    assert locate.locate("/t", environ={**named, "SANDBOXD_SOCKET": "/s"}).socket == "/t"
    config.write_text('socket = "/else/where"\n[machine]\n')
    assert locate.locate(config=str(config), environ={}).socket == "/else/where"
    for bad in ("run_dir = 3\n", "socket = \n"):
        config.write_text(bad)
        with pytest.raises(SandboxdError):
            locate.locate(environ=named)
    with pytest.raises(SandboxdError) as caught:
        locate.locate(environ={"SANDBOXD_CONFIG": str(tmp_path / "nosuch")})
    assert caught.value.kind.code == "config_unreadable"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ('run_dir = "/a"\n', True),
        ('# run_dir = "/b"\n\n  run_dir="/a b#c"  \nsocket = ""\ndns = [\n  "1.1.1.1",\n]\n', True),
        ('data_dir = "/d"\n[machine]\nsocket = 1\nrun_dir = "/no"\n', True),
        ("# of the socket\n", True),
        ('run_dir = "/a" # the socket is here\n', False),
        ("run_dir = '/a'\n", False),
        ('"run_dir" = "/a"\n', False),
        ('run_dir = "/\\u0061"\n', False),
        ('x = """\nrun_dir = "/no"\n"""\nrun_dir = "/a"\n', False),
        ('x = ["run_dir"]\nrun_dir = "/a"\n', False),
        ('run_dir = "/a"\nrun_dir = "/b"\n', False),
        ('socket = "/a\tb"\n', False),
    ],
)
def test_the_short_way_to_read_a_configuration_reads_what_toml_does(text: str, short: bool) -> None:
    found = locate._plain(text.encode())
    assert (found is not None) == short
    if found is not None:
        document = tomllib.loads(text)
        assert found == {key: document[key] for key in ("run_dir", "socket") if key in document}


def test_a_configuration_that_is_not_text_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_bytes(b'run_dir = "/\xff"\n')
    with pytest.raises(SandboxdError):
        locate.locate(config=str(config), environ={})


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(SandboxdError) as caught, sandboxd.Client(tmp_path / "no.sock") as client:
        client.list()
    assert caught.value.kind.code == "daemon_unreachable" and "sandboxd" in caught.value.remedy
    with pytest.raises(SandboxdError) as caught, sandboxd.Client("/" + "x" * 200) as client:
        client.list()
    assert "107" in caught.value.cause


@pytest.fixture
def location(tmp_path: Path) -> Location:
    config = tmp_path / "config.toml"
    config.write_text(f'run_dir = "{tmp_path}/run"\n')
    return locate.locate(config=str(config), environ={})


def _program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """What is started in place of the daemon. It gets the run directory as its argument."""
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(code))
    monkeypatch.setattr(autostart, "program", lambda: [sys.executable, str(script), str(tmp_path / "run")])


LISTENS = """
    import os, socket, sys
    run = sys.argv[1]
    with open(run + "/starts", "a") as file:
        file.write(f"{os.getpid()}\\n")
    server = socket.socket(socket.AF_UNIX)
    server.bind(run + "/sandboxd.sock")
    server.listen()
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.connect("\\0" + os.environ["NOTIFY_SOCKET"][1:])
    notify.send(b"STATUS=up\\nREADY=1")
    assert os.getsid(0) == os.getpid() and os.read(0, 1) == b""
    sys.stdin = None
    import signal
    signal.pause()
"""


def test_a_race_starts_one_daemon(tmp_path: Path, location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(monkeypatch, tmp_path, LISTENS)
    threads = [
        threading.Thread(target=autostart.ensure, args=(location,), kwargs={"autostart": True}) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    starts = (tmp_path / "run/starts").read_text().split()
    try:
        assert len(starts) == 1
        assert autostart.answers(location.socket)
    finally:
        for pid in starts:
            os.kill(int(pid), signal.SIGKILL)
            for thread in threading.enumerate():
                if thread.name == "sandboxd-reap":
                    thread.join(10)


def test_a_start_that_fails_shows_its_log(tmp_path: Path, location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(monkeypatch, tmp_path, "import sys; sys.exit('the reason')")
    Path(location.run_dir).mkdir()
    Path(location.log_file).write_text("an older failure\n")
    with pytest.raises(SandboxdError) as caught:
        autostart.ensure(location, autostart=True)
    assert caught.value.kind.code == "daemon_start_failed"
    assert "status 1" in caught.value.cause and "the reason" in caught.value.cause
    assert "older" not in caught.value.cause


def test_a_start_that_hangs_is_bounded(tmp_path: Path, location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(monkeypatch, tmp_path, "import os, signal, sys; print(os.getpid(), flush=True); signal.pause()")
    with pytest.raises(SandboxdError) as caught:
        autostart.ensure(location, autostart=True, limit_s=1)
    pid = int(caught.value.context["log_tail"])
    os.kill(pid, signal.SIGKILL)
    assert f"process {pid}" in caught.value.cause
    for thread in threading.enumerate():
        if thread.name == "sandboxd-reap":
            thread.join(10)


def test_a_bad_configuration_is_said_before_anything_starts(location: Location, tmp_path: Path) -> None:
    Path(location.config).write_text(f'run_dir = "{tmp_path}/run"\n[machine]\nmemroy = "1G"\n')
    with pytest.raises(SandboxdError) as caught:
        autostart.ensure(location, autostart=True)
    assert caught.value.kind.code == "config_unknown_key"
    assert not (tmp_path / "run").exists()


def test_a_socket_of_nobodys_configuration_starts_nobody(location: Location, tmp_path: Path) -> None:
    elsewhere = Location(str(tmp_path / "other.sock"), location.config, location.run_dir)
    with pytest.raises(SandboxdError) as caught:
        autostart.ensure(elsewhere, autostart=True)
    assert caught.value.kind.code == "daemon_unreachable" and "would listen at" in caught.value.cause


def test_the_interpreter_ends_quietly(daemon: FakeDaemon) -> None:
    """No warning and no hang of the background loop."""
    code = f"import sandboxd; c = sandboxd.Client({daemon.socket!r}); c.list(); it = iter(c.events()); next(it, None)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
