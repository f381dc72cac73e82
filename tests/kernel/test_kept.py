"""What mcrd leaves to the next one: notes, the table of places, the store of descriptors, and what is made of them."""

import array
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mcr._native import ffi
from mcr.process import service
from mcr.process.descriptor_store import DescriptorStore
from mcr.process.service import ServiceManager, passed_descriptors
from mcr.shm.kept import Kept
from mcr.shm.memo import Memo
from mcr.shm.places import Place, Places, digest

_COMMIT = 2  # native/journal.h


@contextmanager
def left_by(kept: Kept) -> Iterator[DescriptorStore]:
    """What the next mcrd is passed, once this one is gone."""
    passed = {name: os.dup(each) for name, each in kept.store.all().items()}
    store = DescriptorStore(inherited=passed)
    try:
        yield store
    finally:
        store.close_inherited()


# Notes.


def test_a_note_says_what_was_written_last() -> None:
    with closing(Memo.make("note")) as memo:
        for value in ({"a": 1}, {"a": [1, "é", None]}, {"b": "x" * 100_000}):
            memo.write(value)
            assert Memo(memo.fd).read() == value


def test_what_a_note_says_already_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Memo.make("note")) as memo:
        memo.write({"a": 1})
        monkeypatch.delattr(os, "pwrite")
        memo.write({"a": 1})
        with pytest.raises(AttributeError):
            memo.write({"a": 2})


def test_a_write_that_is_cut_short_leaves_the_note_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value stands beside the last one before the head says so."""
    with closing(Memo.make("note")) as memo:
        memo.write({"a": 1})
        whole, writes = os.pwrite, []

        def cut(fd: int, data: bytes, offset: int) -> int:
            writes.append(offset)
            assert offset, "the head is not written before the value"
            whole(fd, data[:3], offset)
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "pwrite", cut)
        with pytest.raises(KeyboardInterrupt):
            memo.write({"a": 2})
        assert writes
        assert Memo(memo.fd).read() == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"mcrmemo1", b"mcrmemo1" + bytes(16), b"x" * 10_000])
def test_what_is_no_note_is_refused(content: bytes) -> None:
    with closing(Memo.make("junk")) as memo:
        os.pwrite(memo.fd, content, 0)
        with pytest.raises(ValueError, match="note"):
            memo.read()


def test_a_damaged_value_is_refused() -> None:
    with closing(Memo.make("note")) as memo:
        memo.write({"a": 1})
        for room in (4096, 4096 + (16 << 20)):
            os.pwrite(memo.fd, b"[", room)
        with pytest.raises(ValueError, match="damaged"):
            memo.read()


# Places.


def test_places_and_tags_go_on() -> None:
    with closing(Places.make()) as made:
        first, second, output = digest("r1"), digest("r2"), digest("r1\0o")
        *tags, gone = made.new_tags(4)
        made.put_rules([first, second], [Place(0, tags[0]), Place(7, tags[1])])
        made.put_outputs([output, digest("gone")], [Place(9, tags[2]), Place(3, gone)])
        made.drop_output(3)
        with closing(Places.adopt(os.dup(made.fd))) as adopted:
            assert adopted.rules() == {first: Place(0, 1), second: Place(7, 2)}
            assert adopted.outputs() == {output: Place(9, 3)}
            assert [*adopted.new_tags(1)] == [gone + 1]


# The service manager.


def test_manager_gets_each_descriptor_by_its_name(listener: socket.socket) -> None:
    """And is to drop none because it hangs up."""
    store = DescriptorStore(ServiceManager(listener.getsockname(), "", "", "10"))
    memo = os.memfd_create("x")
    store.put("a.0", memo)
    message, ancillary, _, _ = listener.recvmsg(1000, 100)
    assert message == b"FDSTORE=1\nFDNAME=a.0\nFDPOLL=0"
    ((_, _, data),) = ancillary
    (received,) = array.array("i", data)
    assert os.path.sameopenfile(received, memo)
    store.drop("a.0")
    assert listener.recv(1000) == b"FDSTOREREMOVE=1\nFDNAME=a.0"
    assert store.all() == {}
    os.close(received)
    os.close(memo)


@pytest.mark.parametrize("fdstore", ["", "0", "x"])
def test_manager_that_keeps_nothing_is_not_asked(listener: socket.socket, fdstore: str) -> None:
    store = DescriptorStore(ServiceManager(listener.getsockname(), "", "", fdstore))
    store.put("a", 0)
    assert not store.outlives_mcrd
    with pytest.raises(BlockingIOError):
        listener.recv(1000)


def test_descriptors_that_are_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, where they have their numbers: no child of mcrd's inherits them."""
    pid = os.fork()
    if not pid:
        with ExitStack() as leave:
            leave.callback(os._exit, 1)
            for number in (3, 4, 5):
                os.dup2(0, number)
            os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:a"}
            passed = passed_descriptors()
            good = passed == {"a": 5, "b": 4} and all(map(_is_closed_on_exec, passed.values()))
            leave.pop_all()
            os._exit(0 if good and "LISTEN_FDS" not in os.environ else 2)
    assert os.waitpid(pid, 0)[1] == 0
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "3")
    assert passed_descriptors() == {}


def _is_closed_on_exec(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)


# All of it.


def test_next_mcrd_goes_on_with_the_same_memory() -> None:
    with Kept.open(DescriptorStore(), 2) as kept:
        kept.segments[1].shared.totals.recv = 5
        kept.note_counts({"x": 1})
        with left_by(kept) as store, Kept.open(store, 2) as adopted:
            assert adopted.inherited
            assert [each.read().totals.recv for each in adopted.segments] == [0, 5]
            assert adopted.counts.read()["x"] == 1
            assert store.inherited("") == []
            assert store.all().keys() == kept.store.all().keys()


def newer_layout(kept: Kept) -> None:
    kept.captures.write({"layout": [99, 1]})


def another_version(kept: Kept) -> None:
    kept.segments[0].shared.header.version = 99


def another_worker(kept: Kept) -> None:
    kept.segments[0].shared.header.worker_id = 1


def no_places(kept: Kept) -> None:
    kept.store.drop("places")


def more_workers(kept: Kept) -> None:
    kept.store.put("segment.2", kept.segments[0].fd)


@pytest.mark.parametrize("spoil", [newer_layout, another_version, another_worker, no_places, more_workers])
def test_memory_that_does_not_fit_is_made_anew(spoil: Any) -> None:
    with Kept.open(DescriptorStore(), 2) as kept:
        kept.segments[1].shared.totals.recv = 5
        spoil(kept)
        with left_by(kept) as store, Kept.open(store, 2) as anew:
            assert not anew.inherited
            assert anew.unfit
            assert anew.segments[1].read().totals.recv == 0
            assert store.inherited("") == []


def test_what_a_killed_worker_had_in_hand_is_of_no_concern_to_the_next_ring() -> None:
    """It was about to move on in the ring before it, and nobody goes on with that: its counters are finished."""
    with Kept.open(DescriptorStore(), 1) as kept:
        (segment,) = kept.segments
        journal, capture = segment.shared.journal, segment.shared.captures[3]
        for number, (counter, value) in enumerate(
            ((ffi.addressof(capture, "cursor"), 77), (ffi.addressof(segment.shared.totals, "recv"), 9))
        ):
            journal.entries[number].offset = ffi.cast("char *", counter) - ffi.cast("char *", segment.shared)
            journal.entries[number].value = value
        journal.count = 2
        journal.state = _COMMIT | 3 << 8 | 20 << 32
        segment.start_capture(3)
        assert (capture.cursor, segment.read().totals.recv, journal.state) == (0, 9, 0)


def test_nothing_left_is_no_trouble() -> None:
    with Kept.open(DescriptorStore(), 1) as kept:
        assert (kept.unfit, kept.inherited) == ("", False)


def told(listener: socket.socket) -> list[str]:
    """What waits, in short; descriptors are closed."""
    found = []
    with suppress(BlockingIOError):
        while True:
            message, descriptors, _, _ = socket.recv_fds(listener, 1000, 10)
            found.append(message.decode().removesuffix("\nFDPOLL=0").replace("=1\nFDNAME=", " "))
            for each in descriptors:
                os.close(each)
    return found


def test_manager_is_told_later_what_it_could_not_be_told(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands then: it may have something by the name that is another's now. Nobody waits for it twice."""
    monkeypatch.setattr(service, "_PATIENCE_SECONDS", 0.01)
    store = DescriptorStore(ServiceManager(listener.getsockname(), "", "", "10"))
    left = os.memfd_create("x")
    store.put("before", left)
    with suppress(BlockingIOError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as others:
        others.setblocking(False)
        while True:
            others.sendto(b"=1\nFDNAME=", listener.getsockname())  # until its queue is full
    store.put("missing", left)
    store.put("went", left)
    store.drop("went")
    store.drop("before")
    store.put("before", left)
    assert not store.catch_up()
    assert {*told(listener)} == {"FDSTORE before", " "}
    assert store.catch_up()
    assert told(listener) == [
        *("FDSTOREREMOVE missing", "FDSTORE missing"),
        "FDSTOREREMOVE went",
        *("FDSTOREREMOVE before", "FDSTORE before"),
    ]
    assert store.catch_up()
    assert told(listener) == []
    os.close(left)
