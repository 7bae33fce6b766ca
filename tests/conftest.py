"""What holds for every test."""

from __future__ import annotations

import os
import signal

# Before grpc is loaded: tests start token hosts beside its threads, as the daemon does, and grpc's
# fork handlers make the child die of SIGSEGV now and then.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# A shell that starts the tests in the background has them ignore SIGINT, and what is ignored stays
# so in every child, keydctl and keyd-server included.
signal.signal(signal.SIGINT, signal.default_int_handler)
