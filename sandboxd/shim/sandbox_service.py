"""What a shim offers beside the Task API (shim.proto): translation only."""

from __future__ import annotations

from google.protobuf.message import Message

from sandboxd.aio.ttrpc import Handler
from sandboxd.api import agent_pb2
from sandboxd.api import shim_pb2 as pb
from sandboxd.core.records import ExitRecord
from sandboxd.core.sandbox import Sandbox
from sandboxd.shim.lasting import Lasting
from sandboxd.shim.stdio import open_attached


class SandboxService:
    """Attach, Describe, File, Statistics and WaitExit."""

    def __init__(self, sandbox: Sandbox, lasting: Lasting) -> None:
        self._sandbox = sandbox
        self._lasting = lasting

    def handlers(self) -> dict[str, Handler[Message]]:
        """By method name, for the ttrpc server."""
        return {
            "Attach": self._lasting.handler(pb.AttachRequest, self.attach),
            "Describe": Handler(pb.DescribeRequest, self.describe),
            "File": self._lasting.handler(agent_pb2.FileRequest, self._sandbox.file),
            "Statistics": Handler(pb.StatisticsRequest, self.statistics),
            "WaitExit": Handler(pb.WaitExitRequest, self.wait_exit),
        }

    async def attach(self, request: pb.AttachRequest) -> pb.AttachResponse:
        process = self._sandbox.process(request.id, request.exec_id)
        process.require_attachable()
        process.attach(*open_attached(request.stdin, request.stdout, request.stderr))
        return pb.AttachResponse()

    async def describe(self, request: pb.DescribeRequest) -> pb.DescribeResponse:
        return self._sandbox.describe()

    async def statistics(self, request: pb.StatisticsRequest) -> pb.StatisticsResponse:
        return await self._sandbox.statistics(request.id)

    async def wait_exit(self, request: pb.WaitExitRequest) -> pb.Exit:
        return exit_message(await self._sandbox.process(request.id, request.exec_id).wait())


def exit_message(record: ExitRecord) -> pb.Exit:
    """An exit as shim.proto has it."""
    return pb.Exit(
        exit_status=record.exit_status,
        exited_at_unix_ns=record.exited_at_unix_ns,
        reason=record.reason,
        detail=record.detail,
    )
