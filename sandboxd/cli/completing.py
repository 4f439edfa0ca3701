"""Names for shell completion, asked of the daemon if one runs. Never starts one, never fails, never says anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sandboxd.client.aio import AsyncClient

LIMIT_S = 2.0


def sandboxes(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names, and ids of those that have none."""

    async def ask(client: AsyncClient) -> list[str]:
        return [sandbox.name or sandbox.id for sandbox in await client.list(all=True)]

    return _asked(ctx, ask, incomplete)


def images(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """References, `:latest` left out as people type them."""

    async def ask(client: AsyncClient) -> list[str]:
        return [
            reference.removesuffix(":latest") for image in await client.images.list() for reference in image.references
        ]

    return _asked(ctx, ask, incomplete)


def _asked(
    ctx: click.Context, ask: Callable[[AsyncClient], Coroutine[Any, Any, list[str]]], incomplete: str
) -> list[str]:
    options = ctx.find_root().params

    async def bounded() -> list[str]:
        from sandboxd.client.aio import AsyncClient

        async with asyncio.timeout(LIMIT_S):
            async with AsyncClient(options.get("socket") or "", config=options.get("config") or "") as client:
                return await ask(client)

    try:
        found = asyncio.run(bounded())
    except Exception:  # a half-typed line is no place for an error
        return []
    return sorted({name for name in found if name.startswith(incomplete)})
