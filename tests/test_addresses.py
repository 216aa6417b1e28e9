"""Addresses as people write them, and the network that a limit counts by."""

from __future__ import annotations

from typing import Any

import pytest

from gevpy.addresses import client_network, format_address, unmapped


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("0.0.0.0", 0), "0.0.0.0:0"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("::", 65535, 0, 0), "[::]:65535"),
        (("fe80::1%eth0", 80, 0, 2), "[fe80::1%eth0]:80"),
        (("::ffff:192.0.2.7", 80, 0, 0), "192.0.2.7:80"),
        (("2001:db8::ffff:1", 80, 0, 0), "[2001:db8::ffff:1]:80"),
        (("example.org", 80), "example.org:80"),
        ("/run/gevpy.sock", "/run/gevpy.sock"),
        (b"/run/gevpy.sock", "/run/gevpy.sock"),
        (b"/run/\xff.sock", "/run/\\xff.sock"),
        (None, ""),
        ("", ""),
        (b"", ""),
        ((), ""),
    ],
)
def test_addresses_are_written_for_people(address: Any, text: str) -> None:
    """IPv6 in brackets, mapped IPv4 as IPv4, a path as it is, the unknown as nothing."""
    assert format_address(address) == text


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("1.2.3.4", "1.2.3.4"),
        ("::1", "::1"),
        ("::ffff:0:1.2.3.4", "::ffff:0:1.2.3.4"),
        ("64:ff9b::1.2.3.4", "64:ff9b::1.2.3.4"),
    ],
)
def test_only_mapped_addresses_are_unmapped(host: str, written: str) -> None:
    """A translated address isn't the machine it names."""
    assert unmapped(host) == written


@pytest.mark.parametrize(
    "same",
    [
        [("192.0.2.7", 1), ("192.0.2.7", 2), ("::ffff:192.0.2.7", 3, 0, 0)],
        [("2001:db8:1:2::1", 1, 0, 0), ("2001:db8:1:2:ffff:ffff:ffff:ffff", 2, 0, 0), ("2001:0db8:1:2::", 3, 0, 0)],
        [("fe80::1%eth0", 1, 0, 2), ("fe80::2", 1, 0, 0)],
        [None, "", "/run/gevpy.sock", b"", ()],
    ],
)
def test_one_client_is_one_network(same: list[Any]) -> None:
    """Ports, mapping and the lower half of an IPv6 address make no difference; the unknown share a bucket."""
    assert len({client_network(address) for address in same}) == 1


def test_different_clients_are_different_networks() -> None:
    """IPv4 by address, IPv6 by /64, apart from the unknown."""
    addresses: list[Any] = [
        ("192.0.2.7", 1),
        ("192.0.2.8", 1),
        ("::ffff:192.0.2.9", 1, 0, 0),
        ("2001:db8:1:2::1", 1, 0, 0),
        ("2001:db8:1:3::1", 1, 0, 0),
        ("::1", 1, 0, 0),
        None,
    ]
    assert len({client_network(address) for address in addresses}) == len(addresses)
