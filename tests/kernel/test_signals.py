"""Signals are held until somebody listens, and what is written from the background stops nobody."""

import os
import pty
import signal
import subprocess
import sys
import textwrap

import pytest

HELD = "import os, signal, sys; from mcr.process.signals import HEARD, hold_signals, listen; hold_signals()\n"


@pytest.mark.parametrize("prefix", [[], ["sh", "-c", 'trap "" INT HUP TERM; exec "$@"', "sh"]], ids=["", "ignored"])
def test_what_comes_before_somebody_listens_is_heard_then(prefix: list[str]) -> None:
    """Also where a shell or nohup has had it ignored."""
    code = HELD + textwrap.dedent("""
        for number in sorted(HEARD):
            os.kill(os.getpid(), number)
        import queue
        heard = queue.Queue()
        listen(heard.put)
        print(*sorted(heard.get(timeout=10).name for _ in HEARD))
    """)
    command = [*prefix, sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout == "SIGHUP SIGINT SIGTERM\n"


def test_started_processes_hold_them_from_their_first_instruction() -> None:
    code = HELD + "os.execvp('grep', ['grep', 'SigBlk', '/proc/self/status'])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    blocked = int(done.stdout.split()[1], 16)
    assert all(blocked >> (number - 1) & 1 for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))


def test_writing_from_the_background_does_not_stop_the_process() -> None:
    """Where the terminal has tostop."""
    code = HELD + textwrap.dedent("""
        import termios
        settings = termios.tcgetattr(0)
        settings[3] |= termios.TOSTOP
        termios.tcsetattr(0, termios.TCSANOW, settings)
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            print("from the background", flush=True)
            os._exit(0)
        _, status = os.waitpid(child, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            os.kill(child, signal.SIGKILL)
            os._exit(1)
        os._exit(0)
    """)
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", code])  # noqa: S606
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert status == 0
