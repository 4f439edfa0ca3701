"""A seccomp profile that a caller brings: docker's format, of which the specification's own is a part.

docker's profiles (moby/profiles/seccomp) say more than config.json can: which rules count for which capabilities,
architectures and kernels. Those conditions are decided here; taken as they stand they would be ignored, and grant what
they were to keep back.
"""

from __future__ import annotations

import json
import platform
from typing import Any

from sandboxd.base.errors import SECCOMP_PROFILE_INVALID, SandboxdError
from sandboxd.core.oci.findings import Findings
from sandboxd.core.oci.seccomp import compile_seccomp
from sandboxd.core.oci.spec import parse_seccomp

TEXT_MAX = 1 << 20
_GO_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
_TOKENS = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_DOCKERS_OWN = ("includes", "excludes", "comment", "name")


def own_profile(text: str, capabilities: frozenset[str]) -> dict[str, Any]:
    """`linux.seccomp` of a config.json from a profile's JSON text, for a container with these capabilities.

    Raises `seccomp_profile_invalid`, or `oci_spec_invalid` and `oci_spec_unsupported` with every finding.
    """
    if len(text) > TEXT_MAX:
        raise _refusal(f"It is longer than {TEXT_MAX >> 20} MiB.")
    try:
        profile = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal(f"It is not JSON: {error}.") from error
    if not isinstance(profile, dict):
        raise _refusal("A profile is a JSON object.")
    resolved = _resolved(profile, capabilities)
    _check(resolved)
    return resolved


def _check(profile: dict[str, Any]) -> None:
    """Compiled once for nothing, so that a wrong one is refused before a machine boots for it."""
    findings = Findings("seccomp profile")
    compile_seccomp(parse_seccomp(json.dumps(profile).encode()), findings)
    findings.refuse()


def _resolved(profile: dict[str, Any], capabilities: frozenset[str]) -> dict[str, Any]:
    resolved = {key: value for key, value in profile.items() if key != "archMap"}
    architectures = _architectures(profile.get("archMap"))
    if architectures:
        resolved["architectures"] = architectures
    rules = profile.get("syscalls")
    if isinstance(rules, list):
        resolved["syscalls"] = [_plain(rule) for rule in rules if _counts(rule, capabilities)]
    return resolved


def _architectures(arch_map: object) -> list[Any]:
    """This machine's, with those whose programs it runs besides."""
    for entry in arch_map if isinstance(arch_map, list) else ():
        if isinstance(entry, dict) and entry.get("architecture") == _TOKENS.get(platform.machine()):
            more = entry.get("subArchitectures")
            return [entry["architecture"], *(more if isinstance(more, list) else ())]
    return []


def _counts(rule: object, capabilities: frozenset[str]) -> bool:
    """A guest's kernel is newer than every `minKernel` that docker's profiles name."""
    if not isinstance(rule, dict):
        return True
    includes, excludes = _condition(rule, "includes"), _condition(rule, "excludes")
    machine = _GO_NAMES.get(platform.machine(), platform.machine())
    if excludes.get("minKernel") or machine in _words(excludes, "arches"):
        return False
    if any(name in capabilities for name in _words(excludes, "caps")):
        return False
    wanted = _words(includes, "arches")
    return (not wanted or machine in wanted) and all(name in capabilities for name in _words(includes, "caps"))


def _condition(rule: dict[str, Any], name: str) -> dict[str, Any]:
    condition = rule.get(name) or {}
    if not isinstance(condition, dict):
        raise _refusal(f"`{name}` of a rule is an object with caps, arches and minKernel.")
    return condition


def _words(condition: dict[str, Any], name: str) -> list[str]:
    words = condition.get(name) or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _refusal(f"`{name}` of a rule's condition is a list of words.")
    return words


def _plain(rule: object) -> object:
    """The specification's part of a rule. Old profiles name one call in `name`."""
    if not isinstance(rule, dict):
        return rule
    plain = {key: value for key, value in rule.items() if key not in _DOCKERS_OWN}
    if "name" in rule and "names" not in rule:
        plain["names"] = [rule["name"]]
    return plain


def _refusal(reason: str) -> SandboxdError:
    return SandboxdError(SECCOMP_PROFILE_INVALID, reason=reason)
