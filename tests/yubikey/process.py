"""``python -m tests.yubikey.process FOLDER READERS``: the card process of one bench.

It holds the cards, has pcscd for a child, and ends when its standard input does: when the test
that started it ends, however it ends.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

from tests.yubikey.control import Workbench
from tests.yubikey.pcscd import PrivatePcscd

CONTROL_SOCKET = "control"


async def _until_input_ends() -> None:
    ended = asyncio.Event()

    def read() -> None:
        if not os.read(0, 4096):
            ended.set()

    asyncio.get_running_loop().add_reader(0, read)
    await ended.wait()


async def _main(folder: Path, readers: int) -> None:
    pcscd = PrivatePcscd(folder, readers)
    pcscd.start()
    try:
        serving = asyncio.ensure_future(Workbench(pcscd).serve(folder / CONTROL_SOCKET))
        waiting = asyncio.ensure_future(_until_input_ends())
        done, _ = await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
        for ended in done:
            ended.result()
    finally:
        pcscd.kill()
        # Whoever started us may have been killed.
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Be that process."""
    # Ctrl-C reaches the whole group: the test ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
