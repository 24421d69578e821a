"""Runs `octavo` with an executor that misbehaves as the file says that is its first argument.

ok: as ever; fail: every step raises; hang: steps take a minute; slow: steps take 50 ms more.
"""

import sys
import time

from octavo.cli.main import main
from octavo.executor.native.executor import NativeExecutor

run = NativeExecutor.run
TOLD = sys.argv.pop(1)


def broken(self, *arguments):
    with open(TOLD) as file:
        what = file.read().strip()
    if what == "fail":
        raise RuntimeError("a wire came loose in /root/secret at 0x7f00")
    time.sleep({"hang": 60, "slow": 0.05}.get(what, 0))
    return run(self, *arguments)


NativeExecutor.run = broken
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
