"""Runs `octavo` with an executor that misbehaves: told by what the newest line of the file BROKEN says.

ok: as ever; fail: every step raises; hang: steps take a minute; slow: steps take 50 ms more.
"""

import os
import sys
import time

from octavo.cli.main import main
from octavo.executor.native.executor import NativeExecutor

run = NativeExecutor.run


def broken(self, plan):
    with open(os.environ["BROKEN"]) as file:
        what = file.read().strip()
    if what == "fail":
        raise RuntimeError("a wire came loose in /root/secret at 0x7f00")
    time.sleep({"hang": 60, "slow": 0.05}.get(what, 0))
    return run(self, plan)


NativeExecutor.run = broken
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
