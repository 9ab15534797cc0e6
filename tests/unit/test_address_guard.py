"""Every range that must not be reached, by its RFC: its ends, and the addresses just outside."""

from __future__ import annotations

import pytest

from serve_app.fetching.address_guard import FORBIDDEN_V4, FORBIDDEN_V6, AddressGuard

YES, NO, NONE = True, False, None  # just outside: allowed, in a neighbouring range, no such address

Outside = tuple[str, bool] | None
RANGES: list[tuple[str, str, str, Outside, Outside]] = [
    # RFC, first, last, just before, just after
    ("RFC 791 this network 0/8", "0.0.0.0", "0.255.255.255", NONE, ("1.0.0.0", YES)),
    ("RFC 1918 10/8", "10.0.0.0", "10.255.255.255", ("9.255.255.255", YES), ("11.0.0.0", YES)),
    ("RFC 6598 CGNAT 100.64/10", "100.64.0.0", "100.127.255.255", ("100.63.255.255", YES), ("100.128.0.0", YES)),
    ("RFC 1122 loopback 127/8", "127.0.0.0", "127.255.255.255", ("126.255.255.255", YES), ("128.0.0.0", YES)),
    (
        "RFC 3927 link-local 169.254/16",
        "169.254.0.0",
        "169.254.255.255",
        ("169.253.255.255", YES),
        ("169.255.0.0", YES),
    ),
    ("RFC 1918 172.16/12", "172.16.0.0", "172.31.255.255", ("172.15.255.255", YES), ("172.32.0.0", YES)),
    ("RFC 6890 protocols 192.0.0/24", "192.0.0.0", "192.0.0.255", ("191.255.255.255", YES), ("192.0.1.0", YES)),
    ("RFC 5737 documentation 192.0.2/24", "192.0.2.0", "192.0.2.255", ("192.0.1.255", YES), ("192.0.3.0", YES)),
    ("RFC 7526 6to4 relay 192.88.99/24", "192.88.99.0", "192.88.99.255", ("192.88.98.255", YES), ("192.88.100.0", YES)),
    ("RFC 1918 192.168/16", "192.168.0.0", "192.168.255.255", ("192.167.255.255", YES), ("192.169.0.0", YES)),
    ("RFC 2544 benchmarking 198.18/15", "198.18.0.0", "198.19.255.255", ("198.17.255.255", YES), ("198.20.0.0", YES)),
    (
        "RFC 5737 documentation 198.51.100/24",
        "198.51.100.0",
        "198.51.100.255",
        ("198.51.99.255", YES),
        ("198.51.101.0", YES),
    ),
    (
        "RFC 5737 documentation 203.0.113/24",
        "203.0.113.0",
        "203.0.113.255",
        ("203.0.112.255", YES),
        ("203.0.114.0", YES),
    ),
    ("RFC 5771 multicast 224/4", "224.0.0.0", "239.255.255.255", ("223.255.255.255", YES), ("240.0.0.0", NO)),
    ("RFC 1112 reserved 240/4", "240.0.0.0", "255.255.255.254", ("239.255.255.255", NO), ("255.255.255.255", NO)),
    ("RFC 919 broadcast", "255.255.255.255", "255.255.255.255", ("255.255.255.254", NO), NONE),
    (
        "RFC 4291 below 2000::/3",
        "::",
        "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        NONE,
        ("2000::", YES),
    ),
    (
        "RFC 4291 above 2000::/3, 4000::/2",
        "4000::",
        "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ("3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", YES),
        ("8000::", NO),
    ),
    (
        "RFC 4291 above 2000::/3, 8000::/1",
        "8000::",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ("7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NO),
        NONE,
    ),
    ("RFC 4291 unspecified", "::", "::", NONE, ("::1", NO)),
    ("RFC 4291 loopback", "::1", "::1", ("::", NO), ("::2", NO)),
    ("RFC 4291 IPv4-compatible ::/96", "::", "::255.255.255.255", NONE, ("::1:0:0", NO)),
    ("RFC 4291 IPv4-mapped", "::ffff:0.0.0.0", "::ffff:255.255.255.255", ("::fffe:ffff:ffff", NO), ("::1:0:0:0", NO)),
    (
        "RFC 2765 IPv4-translated",
        "::ffff:0:0.0.0.0",
        "::ffff:0:255.255.255.255",
        ("::fffe:ffff:ffff:ffff", NO),
        ("::ffff:1:0:0", NO),
    ),
    (
        "RFC 6052 NAT64 64:ff9b::/96",
        "64:ff9b::",
        "64:ff9b::255.255.255.255",
        ("64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff", NO),
        ("64:ff9b::1:0:0", NO),
    ),
    (
        "RFC 8215 local NAT64 64:ff9b:1::/48",
        "64:ff9b:1::",
        "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
        ("64:ff9b:0:ffff:ffff:ffff:ffff:ffff", NO),
        ("64:ff9b:2::", NO),
    ),
    (
        "RFC 6666 discard 100::/64",
        "100::",
        "100::ffff:ffff:ffff:ffff",
        ("ff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NO),
        ("100:0:0:1::", NO),
    ),
    (
        "RFC 9780 dummy 100:0:0:1::/64",
        "100:0:0:1::",
        "100:0:0:1:ffff:ffff:ffff:ffff",
        ("100::ffff:ffff:ffff:ffff", NO),
        ("100:0:0:2::", NO),
    ),
    (
        "RFC 2928 protocols 2001::/23",
        "2001::",
        "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
        ("2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", YES),
        ("2001:200::", YES),
    ),
    (
        "RFC 4380 Teredo 2001::/32",
        "2001::",
        "2001:0:ffff:ffff:ffff:ffff:ffff:ffff",
        ("2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", YES),
        ("2001:1::", NO),
    ),
    (
        "RFC 5180 benchmarking 2001:2::/48",
        "2001:2::",
        "2001:2:0:ffff:ffff:ffff:ffff:ffff",
        ("2001:1:ffff:ffff:ffff:ffff:ffff:ffff", NO),
        ("2001:2:1::", NO),
    ),
    (
        "RFC 4843 ORCHID 2001:10::/28",
        "2001:10::",
        "2001:1f:ffff:ffff:ffff:ffff:ffff:ffff",
        ("2001:f:ffff:ffff:ffff:ffff:ffff:ffff", NO),
        ("2001:20::", NO),
    ),
    (
        "RFC 7343 ORCHIDv2 2001:20::/28",
        "2001:20::",
        "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff",
        ("2001:1f:ffff:ffff:ffff:ffff:ffff:ffff", NO),
        ("2001:30::", NO),
    ),
    (
        "RFC 3849 documentation 2001:db8::/32",
        "2001:db8::",
        "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
        ("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", YES),
        ("2001:db9::", YES),
    ),
    (
        "RFC 3056 6to4 2002::/16",
        "2002::",
        "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ("2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", YES),
        ("2003::", YES),
    ),
    (
        "RFC 9637 documentation 3fff::/20",
        "3fff::",
        "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
        ("3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", YES),
        ("3fff:1000::", YES),
    ),
    (
        "RFC 9602 segment routing 5f00::/16",
        "5f00::",
        "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ("5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NO),
        ("5f01::", NO),
    ),
    (
        "RFC 4193 unique local fc00::/7",
        "fc00::",
        "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ("fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NO),
        ("fe00::", NO),
    ),
    (
        "RFC 4291 link-local fe80::/10",
        "fe80::",
        "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ("fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NO),
        ("fec0::", NO),
    ),
    (
        "RFC 3879 site-local fec0::/10",
        "fec0::",
        "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ("febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NO),
        ("ff00::", NO),
    ),
    (
        "RFC 4291 multicast ff00::/8",
        "ff00::",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ("feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NO),
        NONE,
    ),
]


@pytest.mark.parametrize(
    ("first", "last", "before", "after"), [row[1:] for row in RANGES], ids=[row[0] for row in RANGES]
)
def test_row_15_special_ranges_are_refused_and_their_neighbours_allowed(
    first: str, last: str, before: Outside, after: Outside
) -> None:
    guard = AddressGuard()
    assert not guard.allows(first)
    assert not guard.allows(last)
    for outside in (before, after):
        if outside is not None:
            address, allowed = outside
            assert guard.allows(address) is allowed, address


def test_this_table_has_every_range_of_the_guard() -> None:
    starts = {row[1] for row in RANGES}
    for network, rfc in FORBIDDEN_V4 + FORBIDDEN_V6:
        first = network.partition("/")[0]
        mixed = {"::ffff:0:0": "::ffff:0.0.0.0", "::ffff:0:0:0": "::ffff:0:0.0.0.0"}.get(first, first)
        assert mixed in starts, (network, rfc)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "93.184.215.14", "77.88.55.88", "2606:4700::1111", "2a02:6b8::2:242"]
)
def test_public_addresses_are_allowed(address: str) -> None:
    assert AddressGuard().allows(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost",
        "127.1",
        "0x8080808",
        "134744072",
        "010.8.8.8",
        "8.8.8.8 ",
        "8.8.8.8%eth0",
        "[2606:4700::1]",
        "8.8.8.8:80",
    ],
)
def test_anything_but_a_plain_address_is_refused(address: str) -> None:
    assert not AddressGuard().allows(address)
    assert not AddressGuard(["0.0.0.0/0", "::/0"]).allows(address)


def test_a_zone_id_does_not_hide_the_range_of_an_address() -> None:
    assert not AddressGuard().allows("fe80::1%eth0")
    assert not AddressGuard().allows("::1%lo")
    assert AddressGuard(["fe80::/64"]).allows("fe80::1%eth0")
    assert not AddressGuard(["fe80::/64"]).allows("fe80:0:0:1::1%eth0")


def test_an_allowed_network_opens_only_itself() -> None:
    guard = AddressGuard(["10.20.0.0/16", "fd00:1::/32"])
    assert guard.allows("10.20.0.0")
    assert guard.allows("10.20.255.255")
    assert not guard.allows("10.19.255.255")
    assert not guard.allows("10.21.0.0")
    assert guard.allows("fd00:1::1")
    assert not guard.allows("fd00:2::1")
    assert guard.allows("8.8.8.8")


def test_a_mapped_address_of_an_allowed_network_is_allowed() -> None:
    guard = AddressGuard(["10.20.0.0/16"])
    assert guard.allows("::ffff:10.20.3.4")
    assert not guard.allows("::ffff:10.21.3.4")
    # Other ways to write an IPv4 address into an IPv6 one go somewhere else.
    assert not guard.allows("::10.20.3.4")
    assert not guard.allows("64:ff9b::10.20.3.4")
    assert not guard.allows("2002:a14:304::")


@pytest.mark.parametrize("network", ["10.0.0.1/8", "10.0.0.0/33", "internal", ""])
def test_a_malformed_network_is_an_error(network: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        AddressGuard([network])
