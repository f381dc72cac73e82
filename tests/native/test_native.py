"""The native code by itself: under sanitizers, under fuzzing, and under kill -9 at any instruction."""

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from fuzz import CORPORA, build_fuzzer

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NATIVE = ROOT / "mcr" / "native"
COMPILE = ("cc", "-std=gnu11", "-g1", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE}")
BUILT = list((ROOT / "build").glob("temp.*"))
ADDRESS, THREAD, OPTIMIZED = "address", "thread", "optimized"
SANITIZERS = {ADDRESS, THREAD}
FLAGS = {
    ADDRESS: ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    THREAD: ("-O1", "-fsanitize=thread"),
    OPTIMIZED: ("-O2",),
}
SOURCES = {
    "filter_verdicts": ["bpf/functions.c", "bpf/load.c", "bpf/trim.c", "bpf/types.c", "bpf/wanted.c", "packet.c"],
    "ring_stress": [],
    "stream_fuzz": [f"health/{each}.c" for each in ("delay", "gaps", "pids", "rtp", "stream", "ts")],
    "trim_programs": ["bpf/trim.c"],
}
"""What a program needs of the native code, if it is no worker."""
OF_A_WORKER = ["*.c"]
EBPF_FORBIDDEN = 77  # exit status

Build = Callable[[str, str], Path]


@pytest.fixture
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compile a program by its name and a name of FLAGS; what processes that share tests compile they share, too."""
    made = tmp_path_factory.getbasetemp() / "native"

    def compile_program(name: str, flags: str) -> Path:
        directory = made / flags
        directory.mkdir(parents=True, exist_ok=True)
        program = directory / name
        with alone(directory):
            if not program.exists():
                sources = [each for pattern in SOURCES.get(name, OF_A_WORKER) for each in NATIVE.glob(pattern)]
                made_by_setup = {} if flags in SANITIZERS else objects_of_setup()
                link(program, [HERE / f"{name}.c", *sources], FLAGS[flags], made_by_setup)
        return program

    return compile_program


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Another test that compiles into this directory is waited for."""
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def objects_of_setup() -> dict[Path, Path]:
    """By their sources, what `make setup` has compiled, and workers run; none, if any source has changed since."""
    objects = {ROOT / each.relative_to(made).with_suffix(".c"): each for made in BUILT for each in made.rglob("*.o")}
    changed = max(each.stat().st_mtime for each in NATIVE.rglob("*.[ch]"))
    return {source: each for source, each in objects.items() if each.stat().st_mtime > changed}


def link(program: Path, sources: list[Path], flags: tuple[str, ...], made: dict[Path, Path]) -> None:
    """Compile what has not been compiled yet. Warnings are errors."""

    def compile_source(source: Path) -> Path:
        if source in made:
            return made[source]
        target = program.with_name(f"{source.stem}.o")
        if not target.exists():
            subprocess.run([*COMPILE, *flags, "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_source, sources))
    subprocess.run([*COMPILE, *flags, *objects, "-luring", "-o", program], check=True)


def run(program: Path, *arguments: object) -> str:
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ring_passes_ten_million_records_between_two_processes(build: Build) -> None:
    """None is lost, torn or out of order."""
    assert run(build("ring_stress", OPTIMIZED), "processes", 10_000_000) == "10000000 records\n"


def test_ring_has_no_data_race(build: Build) -> None:
    """ThreadSanitizer sees an ordered access to every byte that both sides touch."""
    assert run(build("ring_stress", THREAD), "threads", 1_000_000) == "1000000 records\n"


def test_parser_reads_no_byte_beyond_the_frame(tmp_path: Path) -> None:
    """Three million frames, changed by what they reach, under AddressSanitizer and UBSan; another reading agrees."""
    print(run(build_fuzzer("packet", tmp_path), CORPORA / "packet", 3_000_000, 20_260_101))


def test_reassembly_does_what_another_one_does(tmp_path: Path) -> None:
    """Fragments of both families in thirty thousand orders, under AddressSanitizer and UBSan; each is counted once."""
    print(run(build_fuzzer("reassembly", tmp_path), CORPORA / "reassembly", 30_000, 20_260_101))


def test_analysers_of_streams_read_no_byte_beyond_what_was_kept(build: Build) -> None:
    """A million datagrams, sound, mutated and truncated, under AddressSanitizer and UBSan."""
    print(run(build("stream_fuzz", ADDRESS), 1_000_000, 20_260_101))


def test_capture_filter_and_parser_agree(build: Build) -> None:
    """Fifty thousand mutated and truncated frames, run by the kernel: what one takes for a datagram the other does."""
    program = build("filter_verdicts", OPTIMIZED)
    done = subprocess.run([program, "50000", "20260101"], capture_output=True, text=True, timeout=240, check=False)
    if done.returncode == EBPF_FORBIDDEN:
        pytest.skip("eBPF is forbidden here (no CAP_BPF outside user namespaces)")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_numbers_exclude_is_left_out_of_programs(build: Build) -> None:
    """And nothing else; jumps and functions that remain are found where they have moved to."""
    run(build("trim_programs", ADDRESS))


def test_hostile_frames_break_no_counter_and_nothing_unsound_leaves(build: Build) -> None:
    """Frames, statuses and offload headers of all kinds through whole batches, every identity checked after each."""
    print(run(build("batch_fuzz", ADDRESS), 200_000, 20_260_101))


@pytest.mark.parametrize("way", [(), ("raw",)], ids=["udp", "raw"])
@pytest.mark.parametrize("sanitizer", [ADDRESS, THREAD])
def test_loop_is_clean_under_sanitizers(build: Build, sanitizer: str, way: tuple[str, ...]) -> None:
    """Every packet once while rules come and go, without a bad access, undefined behaviour or a data race."""
    print(run(build("worker_steady", sanitizer), 60_000, *way))


@pytest.mark.parametrize("way", [(), ("raw",)], ids=["udp", "raw"])
def test_kill_at_any_instruction_keeps_counters_exact(build: Build, way: tuple[str, ...]) -> None:
    """Killed in each phase of a batch: nothing is sent twice, what is missing is counted as in doubt."""
    print(run(build("worker_killed", OPTIMIZED), 120, 20_260_101, *way))


def test_what_a_dead_worker_had_in_hand_is_of_no_concern_to_what_has_its_place(build: Build) -> None:
    """A capture that went while a batch was in doubt: all that comes in by the next one leaves. A rule that went while
    counters were written: the next one counts from zero, though the worker that was to finish that died, too."""
    print(run(build("worker_orphan", ADDRESS)))


@pytest.mark.parametrize("sanitizer", [ADDRESS, THREAD])
def test_full_socket_is_a_counted_drop_of_its_output_alone(build: Build, sanitizer: str) -> None:
    """Where one sendmmsg takes but a part: what arrived is what was counted, in order, and the other output has all."""
    print(run(build("worker_overflow", sanitizer), 20_000))


@pytest.mark.parametrize("sanitizer", [ADDRESS, THREAD])
def test_raw_frame_that_is_refused_leaves_as_a_datagram(build: Build, sanitizer: str) -> None:
    """At once, before anything later of its output, and without an error."""
    print(run(build("worker_refused", sanitizer), 20_000))
