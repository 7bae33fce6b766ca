"""What holds for every test."""

from __future__ import annotations

import signal

# A shell that starts the tests in the background has them ignore SIGINT, and what is ignored stays
# so in every child, keydctl and keyd-server included.
signal.signal(signal.SIGINT, signal.default_int_handler)
