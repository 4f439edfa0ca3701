"""Where images come from: the default registry, mirrors, and which hosts may speak plain HTTP.

No host name is built in. Settings become a `registries.conf` (containers-registries.conf(5), version 2) for one fetch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sandboxd.base.errors import IMAGE_NO_REGISTRY, SandboxdError
from sandboxd.image.reference import Reference, is_loopback


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """`default_registry` is `HOST[:PORT][/PATH]`; `mirrors` maps `HOST[:PORT]` to such places, tried in their order."""

    default_registry: str | None = None
    mirrors: Mapping[str, list[str]] = field(default_factory=dict)
    insecure: list[str] = field(default_factory=list)
    """Hosts (`HOST[:PORT]`) that may speak plain HTTP or show a certificate nobody signed."""

    def locate(self, reference: Reference) -> Reference:
        """With a host: what the fetch asks for. Raises image_no_registry."""
        if reference.host:
            return reference
        if not self.default_registry:
            raise SandboxdError(IMAGE_NO_REGISTRY, reference=reference)
        host, _, prefix = self.default_registry.partition("/")
        path = f"{prefix.strip('/')}/{reference.path}" if prefix.strip("/") else reference.path
        return replace(reference, host=host, path=path)

    def familiar(self, reference: Reference) -> Reference:
        """The short form, without the default registry: the one name under which an image is kept."""
        if not self.default_registry:
            return reference
        prefix = self.default_registry.rstrip("/") + "/"
        if not reference.repository.startswith(prefix):
            return reference
        return replace(reference, host="", path=reference.repository[len(prefix) :])

    def is_insecure(self, host: str) -> bool:
        return is_loopback(host) or host in self.insecure

    def render(self, host: str) -> str:
        """The `registries.conf` for a fetch from `host`."""
        lines = ["unqualified-search-registries = []", "[[registry]]", f"location = {_quoted(host)}"]
        lines.append(f"insecure = {_boolean(self.is_insecure(host))}")
        for mirror in self.mirrors.get(host, []):
            lines += ["[[registry.mirror]]", f"location = {_quoted(mirror)}"]
            lines.append(f"insecure = {_boolean(self.is_insecure(mirror.partition('/')[0]))}")
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # TOML's basic strings are JSON's, as far as printable ASCII goes.
    return json.dumps(text)


def _boolean(value: bool) -> str:
    return "true" if value else "false"
