"""The rules on a disk that is full, or has become read-only."""

import subprocess
import sys
from pathlib import Path

import pytest

from mcr_process import IS_ROOT

SETUP = """
import subprocess, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:]
from mcr.errors import SystemFault
from mcr.rules.rule_table import Drop, Put
from mcr.rules.store import RuleFile
from saved_files import rule

disk = Path("/mnt")
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "none", disk], check=True)
store = RuleFile.open(disk)


def fails(*changes):
    try:
        store.write(changes)
    except SystemFault as error:
        return error.message
    return ""


"""

FULL = """
written = 0
while not (refusal := fails(Put(rule(written)))):
    written += 1
assert refusal == "Rules can't be saved in /mnt: No space left on device (os error 28)", refusal
refusal = fails(Drop("rule-0"))  # which may need no more room than there is
assert not refusal or "No space left" in refusal, refusal
store.close()
store = RuleFile.open(disk)
assert store.rules == tuple(map(rule, range(0 if refusal else 1, written))), (len(store.rules), written)
"""

OTHERS_FILL_IT = """
store.write(map(Put, map(rule, range(20))))
store.close()
store = RuleFile.open(disk)
for _ in range(5):
    store.write([Put(rule(20))])  # the log has room for so much
    store.write([Drop("rule-20")])
with Path("/mnt/ballast").open("wb", buffering=0) as ballast:
    try:
        while True:
            ballast.write(bytes(4096))
    except OSError:
        pass
for number in range(10):
    assert not fails(Drop(f"rule-{number}")), number
store.close()
store = RuleFile.open(disk)
assert store.rules == tuple(map(rule, range(10, 20))), store.rules
"""

READ_ONLY = """
store.write([Put(rule(1)), Put(rule(2))])
store._database.execute("PRAGMA wal_checkpoint")
store.write([Put(rule(3))])  # it is only in the write-ahead log
Path("/mnt/copy").mkdir(mode=0o700)
subprocess.run(["cp", "/mnt/rules.sqlite", "/mnt/rules.sqlite-wal", "/mnt/copy"], check=True)
store.close()
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
store = RuleFile.open(disk / "copy")
assert store.rules == (rule(1), rule(2), rule(3)), store.rules
assert store.notices == [
    "Changes of the rules can't be saved in /mnt/copy: Read-only file system (os error 30);"
    " rules can't be changed until that is mended"
], store.notices
assert "Read-only file system" in fails(Put(rule(4)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not IS_ROOT, reason="takes root outside of any user namespace")
@pytest.mark.parametrize("claims", [FULL, OTHERS_FILL_IT, READ_ONLY], ids=["full", "others-fill-it", "read-only"])
def test_nothing_is_lost_and_what_is_refused_is_told(claims: str) -> None:
    helpers = Path(__file__).parent.parent / "unit"
    code = SETUP + claims
    subprocess.run(["unshare", "--mount", sys.executable, "-c", code, str(helpers)], check=True, timeout=60)
