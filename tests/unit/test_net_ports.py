"""The grammar of published ports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.base.errors import INVALID_ARGUMENT, SandboxdError
from sandboxd.base.ports import ANY_ADDRESS, PORTS_PER_SANDBOX_MAX, PortRequest, parse_port_spec, port_request

PORTS = st.integers(1, 65535)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [PortRequest(80)]),
        ("80/udp", [PortRequest(80, protocol="udp")]),
        ("8080:80", [PortRequest(80, 8080)]),
        ("0:80", [PortRequest(80, 0)]),
        (":80", [PortRequest(80, 0)]),
        ("8080:80/TCP", [PortRequest(80, 8080)]),
        ("127.0.0.1:8080:80", [PortRequest(80, 8080, "tcp", "127.0.0.1")]),
        ("127.0.0.1::80/udp", [PortRequest(80, 0, "udp", "127.0.0.1")]),
        ("80-82", [PortRequest(80), PortRequest(81), PortRequest(82)]),
        (
            "127.0.0.1:8080-8081:80-81/udp",
            [PortRequest(80, 8080, "udp", "127.0.0.1"), PortRequest(81, 8081, "udp", "127.0.0.1")],
        ),
        ("65535:65535", [PortRequest(65535, 65535)]),
    ],
)
def test_what_people_write(text: str, expected: list[PortRequest]) -> None:
    assert list(parse_port_spec(text)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ports read"),
        ("x", "ports read"),
        ("8080:", "ports read"),
        ("80:80:80:80", "ports read"),
        ("80 ", "ports read"),
        ("80\n", "ports read"),
        ("-80", "ports read"),
        ("٨٠", "ports read"),
        ("123456", "ports read"),
        ("0", "ports are 1 to 65535"),
        ("80:0", "ports are 1 to 65535"),
        ("65536:80", "65535 at most"),
        ("80/sctp", "tcp or udp"),
        ("80-81:80", "differ in length"),
        ("80:80-81", "differ in length"),
        ("81-80:81-80", "counts up"),
        ("0-1:80-81", "starts at port 1"),
        ("1-2000:1-2000", f"{PORTS_PER_SANDBOX_MAX} ports at most"),
        ("localhost:80:80", "not an IPv4 address"),
        ("256.0.0.1:80:80", "not an IPv4 address"),
        ("010.0.0.1:80:80", "not an IPv4 address"),
        ("[::1]:80:80", "IPv6"),
    ],
)
def test_what_is_refused_and_why(text: str, reason: str) -> None:
    with pytest.raises(SandboxdError) as caught:
        parse_port_spec(text)
    assert caught.value.kind is INVALID_ARGUMENT and reason in caught.value.cause


@given(st.text(max_size=40))
def test_any_text_is_ports_or_an_error_of_the_catalogue(text: str) -> None:
    try:
        requests = parse_port_spec(text)
    except SandboxdError as error:
        assert error.kind is INVALID_ARGUMENT
    else:
        assert all(1 <= r.guest_port <= 65535 and 0 <= r.host_port <= 65535 for r in requests)


@given(st.ip_addresses(v=4), PORTS, PORTS, st.sampled_from(["tcp", "udp"]))
def test_the_whole_form_means_what_it_says(bind: object, host: int, guest: int, protocol: str) -> None:
    assert parse_port_spec(f"{bind}:{host}:{guest}/{protocol}") == (port_request(guest, host, protocol, str(bind)),)


@pytest.mark.parametrize(
    ("guest", "host", "protocol"), [(0, 1, "tcp"), (70000, 1, "tcp"), (1, -1, "tcp"), (1, 1, "icmp")]
)
def test_the_parts_are_checked_as_the_text_is(guest: int, host: int, protocol: str) -> None:
    with pytest.raises(SandboxdError):
        port_request(guest, host, protocol)


def test_empty_parts_mean_their_defaults() -> None:
    assert port_request(80, protocol="", bind="") == PortRequest(80, 0, "tcp", ANY_ADDRESS)
