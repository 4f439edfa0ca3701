"""The words that a shim and its callers share."""

from __future__ import annotations

TASK_SERVICE = "containerd.task.v2.Task"
TASK_SERVICE_V3 = "containerd.task.v3.Task"
"""The same messages under another package: one implementation answers to both names."""
SANDBOX_SERVICE = "sandboxd.shim.v1.Sandbox"

PROCESS_TYPE_URL = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESOURCES_TYPE_URL = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

ATTACH_ONLY = "attach://"
"""As `stdin`: the process gets a standard input, whose data comes by Attach and which CloseIO ends."""

READY = b"ready\n"
"""What a shim writes to its stdout when its socket answers, and a zygote to its daemon when it is warm."""
GO = b"go\n"
"""What the launcher of a forked shim writes to it when it holds its pidfd."""
REQUEST_MAX_BYTES = 4096
"""Of a request to the zygote: a number and a path."""
SPAWN_TIME_VARIABLE = "SANDBOXD_SPAWN_NS"
"""Environment: CLOCK_MONOTONIC nanoseconds when the launcher spawned the shim."""
