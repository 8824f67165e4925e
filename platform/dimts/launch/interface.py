"""Which network interface of this machine has an address."""

from __future__ import annotations

import socket
import struct
import sys

SIOCGIFADDR = 0x8915
"""Linux: the IPv4 address of an interface, netdevice(7)."""


def interface_of(address: str) -> str | None:
    """Name of the interface that has an IPv4 address; None if none is found to."""
    if not sys.platform.startswith("linux"):
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asked, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
