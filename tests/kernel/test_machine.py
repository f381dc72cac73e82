"""What is read of this machine and its processes."""

import os

from mcr.net.machine import (
    Process,
    look_at_process,
    look_at_self,
    parse_netstat,
    parse_softnet,
    parse_status,
)


def test_a_status_file_is_read() -> None:
    text = "Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t0000008000003000\nNoNewPrivs:\t1\nSeccomp:\t2\n"
    process = parse_status(7, text)
    assert process == Process(7, frozenset({12, 13, 39}), no_new_privs=True, seccomp=True)
    assert process.has("CAP_BPF")


def test_softnet_and_netstat_are_read() -> None:
    assert parse_softnet("2bbe36e4 0000000a 0000001a\n1e346ff5 00b1afef 0000076d\n") == 10 + 0xB1AFEF
    text = "TcpExt: A IPReversePathFilter\nTcpExt: 1 22\nIpExt: B\nIpExt: 3\n"
    assert parse_netstat(text) == {"A": 1, "IPReversePathFilter": 22, "B": 3}
    assert parse_netstat("") == {}


def test_this_process_can_be_looked_at() -> None:
    here = look_at_self(8192, 8192)
    assert here.process == look_at_process(os.getpid())
    assert (here.send_buffer, here.receive_buffer) == (8192, 8192)
    assert set(here.cores) == os.sched_getaffinity(0)
    assert here.descriptors >= 3
    assert look_at_process(2**22 + 1) is None  # beyond the largest pid
