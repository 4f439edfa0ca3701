"""The daemon over its API, on real machines: what it promises, and what it leaves behind, which is nothing."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sandboxd.api import sandboxd_pb2 as api
from tests.support.daemon import Conversation, TestDaemon, collect, converse, detail, make_config, running_daemon
from tests.support.house import GUEST_DIR

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(not GUEST_DIR.is_dir(), reason="no guest kernel: `make guest` fetches one")


@pytest.fixture(scope="module")
def layout() -> Path:
    subprocess.run(["make", "-s", "-C", ROOT / "images/busybox"], check=True)
    return ROOT / "images/busybox/build/busybox"


@pytest.fixture(scope="module")
def daemon(layout: Path) -> Iterator[TestDaemon]:
    with running_daemon("td") as daemon:
        daemon.load_busybox(layout)
        yield daemon


@pytest.fixture(autouse=True)
def _nothing_stays(daemon: TestDaemon) -> Iterator[None]:
    yield
    for sandbox in daemon.all():
        daemon.remove(sandbox.id)
    assert daemon.leftovers() == {}


def refused(call: Any) -> api.ErrorDetail:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return detail(caught.value)


# --- run -------------------------------------------------------------------------------------------------------------


def test_run_to_the_end(daemon: TestDaemon) -> None:
    done = daemon.run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.exit_status, done.reason, done.stdout, done.stderr) == (7, "exited", b"out\n", b"err\n")
    assert done.started and done.sandbox.id and done.sandbox.config.name
    assert {"accept", "disk", "shim", "boot", "start", "release", "kernel"} <= set(done.stages)
    stopped = daemon.get(done.sandbox.id)
    assert stopped.state == api.STATE_STOPPED and stopped.exit.exit_status == 7
    assert list(stopped.command) == ["sh", "-c", "echo out; echo err >&2; exit 7"]
    assert daemon.logs(done.sandbox.id) in (b"out\nerr\n", b"err\nout\n")
    assert daemon.wait(done.sandbox.config.name) == (7, "exited")
    assert daemon.leftovers() == {}


def test_remove_at_the_end_leaves_nothing(daemon: TestDaemon) -> None:
    done = daemon.run("true", remove=True)
    assert done.exit_status == 0
    assert daemon.all() == [] and not list((daemon.data_dir / "sandboxes").iterdir())


@pytest.mark.parametrize(
    ("command", "status", "code"),
    [("nosuch", 127, "command_not_found"), ("/etc/passwd", 126, "command_not_executable")],
)
def test_a_command_that_cannot_run_leaves_nothing(daemon: TestDaemon, command: str, status: int, code: str) -> None:
    error = refused(lambda: daemon.run(command))
    assert (error.code, error.exit_status) == (code, status)
    assert daemon.all() == [] and daemon.leftovers() == {}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"image": "nosuch", "pull": "never"}, "image_not_found"),
        ({"memory_bytes": 8 << 20}, "memory_too_small"),
        ({"disk_bytes": 1}, "invalid_argument"),
        ({"user": "nosuch"}, "unknown_user"),
        ({"cap_add": ["nosuch"]}, "invalid_argument"),
        ({"kernel": "/etc/passwd"}, "kernel_unusable"),
        ({"vmm": "kvm"}, None),
        ({"tmpfs": ["relative"]}, "invalid_argument"),
        ({"sysctls": {"nosuch.key": "1"}}, None),
        ({"security_seccomp": "{"}, "seccomp_profile_invalid"),
    ],
    ids=str,
)
def test_bad_input_leaves_nothing(daemon: TestDaemon, options: dict[str, Any], code: str | None) -> None:
    error = refused(lambda: daemon.run("true", **options))
    assert error.code == code or (code is None and error.code != "internal"), error
    assert error.cause and error.remedy
    assert daemon.all() == [] and daemon.leftovers() == {}


def test_input_streams_and_ends(daemon: TestDaemon) -> None:
    done = daemon.run("sh", "-c", "cat; echo end", stdin=[b"a\n", b"b\n"])
    assert done.stdout == b"end\n"  # stdin was not asked for
    done = converse(
        daemon.sandboxes.Run,
        api.RunRequest(run=api.RunConfig(config=make_config("sh", "-c", "cat; echo end", stdin=True))),
        api.RunRequest(stdin=b"a\n"),
        api.RunRequest(stdin=b"b\n"),
        api.RunRequest(close_stdin=True),
    )
    assert (done.stdout, done.exit_status) == (b"a\nb\nend\n", 0)


def test_megabytes_go_through_whole(daemon: TestDaemon) -> None:
    data = bytes(range(256)) * 4096 * 8
    first = api.RunRequest(run=api.RunConfig(config=make_config("cat", stdin=True)))
    chunks = [api.RunRequest(stdin=data[begin : begin + 65536]) for begin in range(0, len(data), 65536)]
    done = converse(daemon.sandboxes.Run, first, *chunks, api.RunRequest(close_stdin=True))
    assert done.stdout == data and done.exit_status == 0


def test_signals_and_window_sizes_reach_the_process(daemon: TestDaemon) -> None:
    script = "trap 'stty size; exit 3' USR1; echo ready; while :; do sleep 0.1; done"
    config = make_config("sh", "-c", script, terminal=True, terminal_width=80, terminal_height=24)
    run = Conversation(daemon.sandboxes.Run, api.RunRequest(run=api.RunConfig(config=config)))
    said = b""
    while not said.endswith(b"ready\r\n"):
        said += run.until("stdout").stdout
    run.send(api.RunRequest(resize=api.Window(width=101, height=37)))
    run.send(api.RunRequest(signal=10))
    done = collect(run.answers)
    run.close()
    assert (done.stdout, done.exit_status) == (b"37 101\r\n", 3)


def test_a_message_that_does_not_belong(daemon: TestDaemon) -> None:
    assert refused(lambda: converse(daemon.sandboxes.Run, api.RunRequest(stdin=b"x"))).code == "invalid_argument"
    run = Conversation(daemon.sandboxes.Run, api.RunRequest(run=api.RunConfig(config=make_config("sleep", "100"))))
    run.until("started")
    run.send(api.RunRequest(attach=api.AttachConfig()))
    assert refused(lambda: collect(run.answers)).code == "invalid_argument"
    run.close()


def test_a_client_that_vanishes_leaves_the_sandbox_running(daemon: TestDaemon) -> None:
    config = make_config("sh", "-c", "echo one; cat; echo two; sleep 1000", stdin=True)
    run = Conversation(daemon.sandboxes.Run, api.RunRequest(run=api.RunConfig(config=config)))
    sandbox = run.until("sandbox").sandbox.id
    run.until("stdout")
    run.cancel()
    attached = Conversation(daemon.sandboxes.Attach, api.RunRequest(attach=api.AttachConfig(sandbox=sandbox)))
    attached.until("sandbox")
    # Its input has ended with its client; what it says next goes to its log, and perhaps to who came after.
    follow = daemon.sandboxes.Logs(api.LogsRequest(id=sandbox, follow=True))
    assert [next(follow).data, next(follow).data] == [b"one\n", b"two\n"]
    follow.cancel()
    assert daemon.get(sandbox).state == api.STATE_RUNNING
    attached.cancel()


def test_a_client_that_vanishes_while_it_is_made_leaves_nothing(daemon: TestDaemon) -> None:
    run = Conversation(daemon.sandboxes.Run, api.RunRequest(run=api.RunConfig(config=make_config("sleep", "1000"))))
    run.until("sandbox")
    run.cancel()
    deadline = time.monotonic() + 10
    while daemon.all() or daemon.leftovers():
        assert time.monotonic() < deadline, (daemon.all(), daemon.leftovers())


def test_timeout(daemon: TestDaemon) -> None:
    done = daemon.run("sleep", "1000", timeout_s=1.0)
    assert (done.exit_status, done.reason) == (137, "timeout")


# --- a detached life -------------------------------------------------------------------------------------------------


def test_create_start_stop_remove(daemon: TestDaemon) -> None:
    made = daemon.sandboxes.Create(api.CreateRequest(config=make_config("sleep", "1000", name="life")))
    assert made.state == api.STATE_CREATED
    assert daemon.get(made.id).machine.vmm_pid > 0
    started = daemon.sandboxes.Start(api.StartRequest(id="life"))
    assert started.state == api.STATE_RUNNING and started.started_unix_ns >= started.created_unix_ns
    assert refused(lambda: daemon.sandboxes.Start(api.StartRequest(id="life"))).code == "sandbox_wrong_state"
    assert refused(lambda: daemon.run("true", name="life")).code == "name_in_use"
    assert refused(lambda: daemon.remove("life", force=False)).code == "sandbox_running"
    stopped = daemon.sandboxes.Stop(api.StopRequest(id="life", timeout_s=0.2))
    assert (stopped.state, stopped.exit.exit_status) == (api.STATE_STOPPED, 137)
    assert daemon.sandboxes.Stop(api.StopRequest(id="life")).state == api.STATE_STOPPED
    for verb in (
        lambda: daemon.sandboxes.Kill(api.KillRequest(id="life")),
        lambda: daemon.exec("life", "true"),
        lambda: daemon.sandboxes.Start(api.StartRequest(id="life")),
    ):
        assert refused(verb).code == "sandbox_wrong_state"
    daemon.remove("life", force=False)
    assert refused(lambda: daemon.get("life")).code == "sandbox_not_found"


def test_created_and_never_started(daemon: TestDaemon) -> None:
    made = daemon.sandboxes.Create(api.CreateRequest(config=make_config("true")))
    daemon.remove(made.id)
    assert daemon.all() == [] and daemon.leftovers() == {}


def test_stop_signal_of_the_request(daemon: TestDaemon) -> None:
    script = "trap 'exit 5' HUP; while :; do sleep 0.1; done"
    sandbox = daemon.spawn("sh", "-c", f"{script}", stop_signal="SIGHUP")
    time.sleep(0.5)  # the shell has to reach its trap
    assert daemon.sandboxes.Stop(api.StopRequest(id=sandbox)).exit.exit_status == 5


def test_replace(daemon: TestDaemon) -> None:
    first = daemon.spawn("sleep", "1000", name="web")
    second = daemon.spawn("sleep", "1000", name="web", replace=True)
    assert first != second and [sandbox.id for sandbox in daemon.all()] == [second]


def test_exec(daemon: TestDaemon) -> None:
    sandbox = daemon.spawn("sleep", "1000")
    done = daemon.exec(sandbox, "sh", "-c", "echo $A; id -u; pwd; exit 4", env=["A=b"], user="1000", working_dir="/tmp")
    assert (done.stdout, done.exit_status) == (b"b\n1000\n/tmp\n", 4)
    assert daemon.exec(sandbox, "cat", stdin=[b"in"]).stdout == b"in"
    error = refused(lambda: daemon.exec(sandbox, "nosuch"))
    assert (error.code, error.exit_status) == ("command_not_found", 127)
    assert refused(lambda: daemon.exec(sandbox)).code == "invalid_argument"
    assert refused(lambda: daemon.exec(sandbox, "true", user="nosuch")).code == "unknown_user"
    done = daemon.exec(sandbox, "tty", terminal=True)
    assert done.stdout.startswith(b"/dev/pts/")
    assert daemon.exec(sandbox, "sh", "-c", "echo bg > /bg", detach=True).exit_status is None
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda n: daemon.exec(sandbox, "echo", str(n)).stdout, range(16)))
    assert outcomes == [f"{n}\n".encode() for n in range(16)]
    assert daemon.exec(sandbox, "cat", "/bg").stdout == b"bg\n"
    assert list(daemon.sandboxes.Processes(api.GetRequest(id=sandbox)).pids)


def test_exec_ends_with_its_machine(daemon: TestDaemon) -> None:
    sandbox = daemon.spawn("sleep", "1000")
    request = api.RunRequest()
    getattr(request, "exec").CopyFrom(api.ExecConfig(sandbox=sandbox, command=["sleep", "1000"]))  # noqa: B009
    running = Conversation(daemon.sandboxes.Exec, request)
    running.until("started")
    daemon.sandboxes.Kill(api.KillRequest(id=sandbox))
    assert collect(running.answers).exit_status == 137
    running.close()


def test_logs(daemon: TestDaemon) -> None:
    script = "for i in 1 2 3 4 5; do echo line $i; done; echo -n open; sleep 1000"
    sandbox = daemon.spawn("sh", "-c", script)
    follow = daemon.sandboxes.Logs(api.LogsRequest(id=sandbox, follow=True))
    assert b"".join(next(follow).data for _ in range(6)) == b"line 1\nline 2\nline 3\nline 4\nline 5\nopen"
    assert daemon.logs(sandbox, tail=2) == b"line 5\nopen"
    assert daemon.logs(sandbox, tail=0) == b""
    entries = list(daemon.sandboxes.Logs(api.LogsRequest(id=sandbox)))
    assert daemon.logs(sandbox, since_unix_ns=entries[-1].unix_ns + 1) == b""
    daemon.sandboxes.Kill(api.KillRequest(id=sandbox))
    assert list(follow) == []  # it ends with its sandbox
    assert daemon.wait(sandbox) == (137, "signaled")
    assert daemon.logs(sandbox, tail=1) == b"open"


def test_statistics(daemon: TestDaemon) -> None:
    sandbox = daemon.spawn("sh", "-c", "while :; do :; done")
    first, second = (sample for sample, _ in zip(_stream(daemon, sandbox), range(2), strict=False))
    assert first.memory_bytes > 0 and first.memory_limit_bytes > 0 and first.pids >= 1
    assert first.host_memory_bytes > 32 << 20 and first.host_cpu_ns > 0
    assert first.disk_total_bytes > 1 << 30 > first.disk_used_bytes
    assert second.cpu_ns > first.cpu_ns and second.cpu_percent > 10
    assert [sample.id for sample in daemon.sandboxes.Stats(api.StatsRequest())] == [sandbox]


def _stream(daemon: TestDaemon, sandbox: str) -> Iterator[api.SandboxStats]:
    call = daemon.sandboxes.Stats(api.StatsRequest(ids=[sandbox], stream=True))
    try:
        yield from call
    finally:
        call.cancel()


def test_events(daemon: TestDaemon) -> None:
    since = time.time_ns()
    follow = daemon.sandboxes.Events(api.EventsRequest(follow=True, filters=["type=sandbox"]))
    sandbox = daemon.run("true", labels={"k": "v"}, remove=True).sandbox.id
    live = [next(follow) for _ in range(4)]
    follow.cancel()
    assert [event.action for event in live] == ["create", "start", "die", "destroy"]
    assert live[2].attributes["exitCode"] == "0" and live[0].attributes["k"] == "v"
    kept = list(daemon.sandboxes.Events(api.EventsRequest(since_unix_ns=since, filters=[f"sandbox={sandbox}"])))
    assert kept == live
    assert [
        event.action for event in daemon.sandboxes.Events(api.EventsRequest(filters=["image=busybox", "type=image"]))
    ] == ["load"]


def test_files_both_ways(daemon: TestDaemon) -> None:
    sandbox = daemon.spawn("sleep", "1000")
    content = bytes(range(256)) * 8192
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("dir/file")
        info.size, info.mode, info.uid = len(content), 0o640, 1000
        archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "dir/file"
        archive.addfile(link)

    def upload(path: str) -> int:
        data = buffer.getvalue()
        requests = [api.CopyInRequest(target=api.CopyTarget(id=sandbox, path=path, keep_owner=True))]
        requests += [api.CopyInRequest(data=data[begin : begin + 60000]) for begin in range(0, len(data), 60000)]
        return int(daemon.sandboxes.CopyIn(iter(requests)).files)

    assert upload("/srv") == 2
    look = daemon.exec(sandbox, "stat", "-c", "%a %u %s", "/srv/dir/file").stdout
    assert look == f"640 1000 {len(content)}\n".encode()
    assert daemon.exec(sandbox, "cat", "/srv/link").stdout == content
    out = b"".join(chunk.data for chunk in daemon.sandboxes.CopyOut(api.CopyOutRequest(id=sandbox, path="/srv")))
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        file = archive.extractfile("srv/dir/file")
        assert file and file.read() == content
        assert archive.getmember("srv/link").linkname == "dir/file"
        assert archive.getmember("srv/dir/file").uid == 1000
    found = daemon.sandboxes.StatPath(api.StatPathRequest(id=sandbox, path="/srv/link"))
    assert found.exists and found.symlink_target == "dir/file"
    assert not daemon.sandboxes.StatPath(api.StatPathRequest(id=sandbox, path="/none")).exists
    assert refused(lambda: upload("/none")).code == "path_not_found"
    assert refused(lambda: upload("/etc/passwd")).code == "copy_refused"
    missing = api.CopyOutRequest(id=sandbox, path="/none")
    assert refused(lambda: list(daemon.sandboxes.CopyOut(missing))).code == "path_not_found"


def test_list_filters(daemon: TestDaemon) -> None:
    running = daemon.spawn("sleep", "1000", name="one", labels={"tier": "a"})
    stopped = daemon.run("true", name="two", labels={"tier": "b"}).sandbox.id

    def ids(**options: Any) -> list[str]:
        return [sandbox.id for sandbox in daemon.sandboxes.List(api.ListRequest(**options)).sandboxes]

    assert ids() == [running] and ids(all=True) == [running, stopped]
    assert ids(filters=["status=exited"]) == [stopped]
    assert ids(all=True, labels={"tier": "b"}) == [stopped]
    assert daemon.get("two").id == daemon.get(stopped[:11]).id == stopped


# --- images ----------------------------------------------------------------------------------------------------------


def test_images_know_who_uses_them(daemon: TestDaemon) -> None:
    sandbox = daemon.run("true").sandbox.id
    image = daemon.images.Get(api.GetImageRequest(reference="busybox"))
    assert list(image.used_by) == [sandbox] and image.size_bytes > 0 and image.config_json
    assert [listed.id for listed in daemon.images.List(api.ListImagesRequest()).images] == [image.id]
    assert refused(lambda: daemon.images.Remove(api.RemoveImageRequest(reference="busybox"))).code == "image_in_use"
    assert refused(lambda: list(daemon.images.Load(api.LoadRequest(path="relative")))).code == "invalid_argument"


# --- the daemon itself -----------------------------------------------------------------------------------------------


def test_health_reflection_and_information(daemon: TestDaemon) -> None:
    health = health_pb2_grpc.HealthStub(daemon.channel)
    for service in ("", "sandboxd.v1.Sandboxes"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(daemon.channel)
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="sandboxd.v1.Sandboxes")
    assert next(reflection.ServerReflectionInfo(iter([request]))).file_descriptor_response.file_descriptor_proto
    information = daemon.system.Info(api.InfoRequest())
    assert information.acceleration in ("tcg", "kvm") and information.acceleration_reason
    assert daemon.system.Version(api.VersionRequest()).pid == daemon.pid
    assert int((daemon.run_dir / "sandboxd.pid").read_text()) == daemon.pid
    assert (daemon.run_dir / "sandboxd.sock").stat().st_mode & 0o777 == 0o600


def test_only_one_runs(daemon: TestDaemon) -> None:
    import sys

    command = [sys.executable, "-m", "sandboxd.daemon", "--config", str(daemon.config)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert "sandboxd runs already" in second.stderr and str(daemon.pid) in second.stderr
    assert daemon.system.Version(api.VersionRequest()).pid == daemon.pid


def test_memory_stays_within_its_budget(daemon: TestDaemon) -> None:
    daemon.run("true", remove=True, network="default")
    text = Path(f"/proc/{daemon.pid}/smaps_rollup").read_text()
    private = sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))
    assert private < 80 * 1024, f"{private} KiB"


def test_twenty_at_once(daemon: TestDaemon) -> None:
    with ThreadPoolExecutor(20) as pool:
        outcomes = list(pool.map(lambda n: daemon.run("echo", str(n), memory_bytes=128 << 20, remove=True), range(20)))
    assert [outcome.stdout for outcome in outcomes] == [f"{n}\n".encode() for n in range(20)]
    assert daemon.all() == [] and daemon.leftovers() == {}
