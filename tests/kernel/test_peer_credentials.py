"""Who is at the other end of a socket."""

import os
import socket

from mcr.control.peers import Peer, peer_of


def test_the_kernel_says_who_the_peer_is() -> None:
    a, b = socket.socketpair()
    with a, b:
        assert peer_of(a) == Peer(os.getpid(), os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))
