"""What happened, told to whoever listens and kept for those who ask later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

from sandboxd.base.clock import unix_ns
from sandboxd.base.errors import INVALID_ARGUMENT, SUBSCRIBER_TOO_SLOW, SandboxdError
from sandboxd.daemon.records import EventRecord
from sandboxd.daemon.store import Store

BACKLOG_MAX = 4096
"""Events that one subscriber may be behind."""
FILTERS_MAX = 64
_FILTER_KEYS = ("type", "event", "action", "sandbox", "container", "image", "id", "name", "label")


class _Subscriber:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[EventRecord] = asyncio.Queue(BACKLOG_MAX)
        self.lost = False

    def offer(self, event: EventRecord) -> None:
        try:
            self.queue.put_nowait(event)
        except asyncio.QueueFull:
            self.lost = True

    def pending(self) -> list[EventRecord]:
        return [self.queue.get_nowait() for _ in range(self.queue.qsize())]

    async def next(self) -> EventRecord:
        # What was there before the overflow is still told; then the stream ends instead of leaving a hole.
        if self.lost and self.queue.empty():
            raise SandboxdError(SUBSCRIBER_TOO_SLOW, count=BACKLOG_MAX)
        return await self.queue.get()


class EventBus:
    """Events go to the store and to every subscriber; a subscriber that does not read is let go, never waited for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._subscribers: set[_Subscriber] = set()

    def publish(self, kind: str, action: str, id_: str, name: str = "", /, **attributes: str) -> None:
        """By position what is ours: attributes hold a user's labels, which may have any name."""
        event = EventRecord(unix_ns(), kind, action, id_, name, attributes)
        self._store.post_event(event)
        for subscriber in self._subscribers:
            subscriber.offer(event)

    async def stream(self, since_unix_ns: int, *, history: bool, follow: bool) -> AsyncIterator[EventRecord]:
        """First the kept ones from `since_unix_ns` on, then, with `follow`, each new one; none twice, none lost."""
        subscriber = _Subscriber()
        self._subscribers.add(subscriber)
        try:
            kept = await self._store.events(since_unix_ns) if history else []
            # Told and kept between the subscription and the query: these are in both.
            pending = subscriber.pending()
            for event in kept:
                yield event
            for event in pending:
                if follow and event not in kept[-BACKLOG_MAX:]:
                    yield event
            while follow:
                yield await subscriber.next()
        finally:
            self._subscribers.discard(subscriber)


def parse_event_filters(filters: Sequence[str]) -> dict[str, set[str]]:
    """`KEY=VALUE` items by key; values of one key are alternatives, keys must all agree, as docker has it."""
    if len(filters) > FILTERS_MAX:
        raise _bad_filter(str(len(filters)), f"at most {FILTERS_MAX} filters are taken")
    parsed: dict[str, set[str]] = {}
    for item in filters:
        key, equals, value = item.partition("=")
        if not equals or key not in _FILTER_KEYS:
            raise _bad_filter(item, f"filters read KEY=VALUE with KEY one of {', '.join(_FILTER_KEYS)}")
        parsed.setdefault(key, set()).add(value)
    return parsed


def event_matches(event: EventRecord, filters: dict[str, set[str]]) -> bool:
    return all(_matches(event, key, values) for key, values in filters.items())


def _matches(event: EventRecord, key: str, values: Iterable[str]) -> bool:
    if key == "type":
        return any(value == event.type or (value == "container" and event.type == "sandbox") for value in values)
    if key in ("event", "action"):
        return event.action in values
    if key == "label":
        return any(_label_matches(event, value) for value in values)
    if key == "name":
        return event.name in values
    if key == "image":
        return any(_image_matches(event, value) for value in values)
    if key in ("sandbox", "container") and event.type != "sandbox":
        return False
    return any(value == event.name or (value and event.id.startswith(value)) for value in values)


def _image_matches(event: EventRecord, wanted: str) -> bool:
    """Events of the image, and of sandboxes that were made from it."""
    name = event.name if event.type == "image" else event.attributes.get("image", "")
    names = (name, name.removesuffix(":latest"))
    return wanted in names or (event.type == "image" and bool(wanted) and event.id.startswith(wanted))


def _label_matches(event: EventRecord, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    found = event.attributes.get(key)
    return found is not None and (not equals or found == value)


def _bad_filter(value: str, reason: str) -> SandboxdError:
    return SandboxdError(INVALID_ARGUMENT, what="filter", value=value[:80], reason=f"{reason}.", command="events")
