"""Decides which IP addresses the service may connect to on behalf of a client. Resolves no names.

The table is our own because `ipaddress.is_global` changes between Python versions, and allows ranges that embed an IPv4
address (NAT64, 6to4, IPv4-compatible). Its sources are the IANA special-purpose registries for IPv4 and IPv6, and the
IPv6 address space registry.

No table can know a network that routes public addresses to itself, or that has its own NAT64 prefix (RFC 6052). The
network's egress rules have to cover these.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

FORBIDDEN_V4: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "RFC 791: this network"),
    ("10.0.0.0/8", "RFC 1918: private"),
    ("100.64.0.0/10", "RFC 6598: shared by carrier-grade NAT"),
    ("127.0.0.0/8", "RFC 1122: loopback"),
    ("169.254.0.0/16", "RFC 3927: link-local, cloud metadata"),
    ("172.16.0.0/12", "RFC 1918: private"),
    ("192.0.0.0/24", "RFC 6890: IETF protocol assignments"),
    ("192.0.2.0/24", "RFC 5737: documentation"),
    ("192.88.99.0/24", "RFC 7526: 6to4 relay anycast, deprecated"),
    ("192.168.0.0/16", "RFC 1918: private"),
    ("198.18.0.0/15", "RFC 2544: benchmarking"),
    ("198.51.100.0/24", "RFC 5737: documentation"),
    ("203.0.113.0/24", "RFC 5737: documentation"),
    ("224.0.0.0/4", "RFC 5771: multicast"),
    ("240.0.0.0/4", "RFC 1112: reserved; RFC 919: its last address is the limited broadcast"),
)

FORBIDDEN_V6: tuple[tuple[str, str], ...] = (
    # Global unicast addresses are assigned from 2000::/3 only. These three are everything else...
    ("::/3", "RFC 4291: not global unicast"),
    ("4000::/2", "RFC 4291: not global unicast"),
    ("8000::/1", "RFC 4291: not global unicast"),
    # ...and these are listed within them, so that they stay closed if that policy ever changes.
    ("::/128", "RFC 4291: unspecified"),
    ("::1/128", "RFC 4291: loopback"),
    ("::/96", "RFC 4291: IPv4-compatible, deprecated"),
    ("::ffff:0:0/96", "RFC 4291: IPv4-mapped"),
    ("::ffff:0:0:0/96", "RFC 2765: IPv4-translated"),
    ("64:ff9b::/96", "RFC 6052: NAT64"),
    ("64:ff9b:1::/48", "RFC 8215: NAT64 for local use"),
    ("100::/64", "RFC 6666: discard"),
    ("100:0:0:1::/64", "RFC 9780: dummy prefix"),
    ("5f00::/16", "RFC 9602: segment routing"),
    ("fc00::/7", "RFC 4193: unique local"),
    ("fe80::/10", "RFC 4291: link-local"),
    ("fec0::/10", "RFC 3879: site-local, deprecated"),
    ("ff00::/8", "RFC 4291: multicast"),
    # Within 2000::/3.
    ("2001::/23", "RFC 2928: IETF protocol assignments"),
    ("2001::/32", "RFC 4380: Teredo"),
    ("2001:2::/48", "RFC 5180: benchmarking"),
    ("2001:10::/28", "RFC 4843: ORCHID, deprecated"),
    ("2001:20::/28", "RFC 7343: ORCHIDv2"),
    ("2001:db8::/32", "RFC 3849: documentation"),
    ("2002::/16", "RFC 3056: 6to4"),
    ("3fff::/20", "RFC 9637: documentation"),
)

_FORBIDDEN_V4 = tuple(IPv4Network(network) for network, _ in FORBIDDEN_V4)
_FORBIDDEN_V6 = tuple(IPv6Network(network) for network, _ in FORBIDDEN_V6)


class AddressGuard:
    """Allows global unicast addresses, and those in `allowed_networks` (CIDR, IPv4 or IPv6).

    Raises ValueError for a malformed network, or one with bits set beyond its prefix.
    """

    def __init__(self, allowed_networks: Sequence[str] = ()) -> None:
        self._allowed = tuple(ip_network(network) for network in allowed_networks)

    def allows(self, address: str) -> bool:
        """Whether the service may connect to a numeric address; IPv6 may have a zone ("fe80::1%eth0").

        Refuses anything else: a socket would resolve a name once more, unchecked.
        """
        try:
            ip = ip_address(address)
        except ValueError:
            return False
        if self._is_allowed(ip):
            return True
        if isinstance(ip, IPv4Address):
            return not any(ip in network for network in _FORBIDDEN_V4)
        return not any(ip in network for network in _FORBIDDEN_V6)

    def _is_allowed(self, ip: IPv4Address | IPv6Address) -> bool:
        # Connecting to a mapped address reaches the IPv4 address inside it.
        mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
        return any(ip in network or (mapped is not None and mapped in network) for network in self._allowed)
