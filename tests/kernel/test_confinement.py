"""What a confined process can still do: nothing that it was not set up for."""

import json
import subprocess
import sys

PROGRAM = """
import errno, json, mmap, os, signal, socket
from mcr._native import lib

reader, writer = os.pipe()
attempts = {
    "open a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "make a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "start a process": os.fork,
    "execute a program": lambda: os.execv("/bin/true", ["true"]),
    "signal another": lambda: os.kill(os.getppid(), 0),
    "become another": lambda: os.setresuid(os.getuid(), os.getuid(), os.getuid()),
    "execute from memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "read a process's memory": lambda: os.pidfd_open(os.getppid()),
    "write to a pipe it has": lambda: os.write(writer, b"x"),
    "read from it": lambda: os.read(reader, 1),
    "use more memory": lambda: bytearray(1 << 24),
}
assert lib.mcr_confine() == 0
said = {}
for name, attempt in attempts.items():
    try:
        attempt()
        said[name] = "yes"
    except OSError as error:
        said[name] = errno.errorcode[error.errno]
os.write(1, json.dumps(said).encode())
os._exit(0)
"""


def test_a_confined_process_uses_what_it_has_and_gets_nothing_more() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True)
    said = json.loads(done.stdout)
    still = {"write to a pipe it has", "read from it", "use more memory"}
    assert said == {name: "yes" if name in still else "EPERM" for name in said}
    assert len(said) == 11
