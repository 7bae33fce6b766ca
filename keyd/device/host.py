"""``python -m keyd.device.host``: the only process that loads a PKCS#11 module.

Small, exec'd, one thread. It dies with the daemon, leaves no core file, and answers requests in
the order they come. The daemon kills it when a call takes too long; nothing here has a timer.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pkcs11

from keyd.device import keypairs, ykcs11
from keyd.device.failures import INSTALL_YUBIKIT
from keyd.device.frames import pack, read_blocking
from keyd.device.handles import Signer, failure_message
from keyd.device.keyindex import KeyIndex
from keyd.device.module import Selector
from keyd.device.pkcs11 import TokenSession
from keyd.device.v1 import device_pb2 as pb
from keyd.errors import DeviceFaultError, KeydError
from keyd.model import KeyAlgorithm

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PROGRESS_S = 0.25
"""A long request says that it moves at least this often."""
_QUIET_S = 0.005
"""A request that comes while the host goes through the token's keys waits about this long."""
_LOCK_WAIT_S = 3.0
"""A killed predecessor holds its lock until the kernel has buried it."""

EXIT_ORPHAN = 3
EXIT_LOCKED = 4


def protect(parent: int) -> None:
    """Die with the daemon, show nobody our memory, leave no core.

    PR_SET_PDEATHSIG comes first; a parent that died before it was set is found by getppid().
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(EXIT_ORPHAN)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Ctrl-C and systemd signal the whole group: the daemon drains first, then closes our socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def take_lock(path: Path) -> int | None:
    """Hold this host's place for life: a descriptor, or None while another host has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= give_up:
                os.close(descriptor)
                return None
            time.sleep(0.01)


class Host:
    """Answers the requests of one daemon over one socket."""

    def __init__(self, connection: socket.socket, token: TokenSession) -> None:
        self._connection = connection
        self._token = token
        self._index = KeyIndex(token)
        self._signer = Signer(token, self._index)
        self._told_at = 0.0

    def serve(self) -> None:
        """Until the daemon closes its end."""
        while (body := read_blocking(self)) is not None:
            request = pb.Request.FromString(body)
            self._send(self._answer(request))
            self._use_the_quiet()

    def read(self, size: int, /) -> bytes:
        """From the daemon: as many bytes, fewer only at its end."""
        return self._connection.recv(size, socket.MSG_WAITALL) if size else b""

    def _use_the_quiet(self) -> None:
        """Go on through the token's keys until the daemon asks for something."""
        while self._index.is_behind and not select.select([self._connection], (), (), 0)[0]:
            self._index.go_on(_QUIET_S)

    def _send(self, reply: pb.Reply) -> None:
        self._connection.sendall(pack(reply))

    def _answer(self, request: pb.Request) -> pb.Reply:
        what = request.WhichOneof("what")
        try:
            if what == "sign_many":
                return self._sign(request)
            if what == "login":
                return self._login(request)
            if what == "probe":
                return pb.Reply(id=request.id, probed=self._token.probe())
            if what == "yubikey":
                return self._on_yubikey(request)
            if what == "refresh":
                self._token.forget_session()
                return pb.Reply(id=request.id, refreshed=pb.Refreshed())
            return self._on_objects(request, what)
        except KeydError as error:
            return pb.Reply(id=request.id, failure=failure_message(error))
        except pkcs11.PKCS11Error as error:
            fault = self._token.fault(error, f"answering {what}")
            return pb.Reply(id=request.id, failure=failure_message(fault))

    def _on_objects(self, request: pb.Request, what: str | None) -> pb.Reply:
        session, name = self._token.open_session(), self._token.name
        if what == "generate":
            order = request.generate
            made, private, public = keypairs.generate(
                session,
                name,
                KeyAlgorithm(order.algorithm),
                order.object_id,
                order.label,
                self._index.is_taken,
            )
            self._index.remember(order.object_id, private, public)
            return pb.Reply(id=request.id, generated=pb.Generated(key=made))
        if what == "objects":
            wanted = request.objects.object_id
            if wanted:
                keys = self._known(wanted) or keypairs.list_some(session, wanted)
            else:
                keys = keypairs.list_all(session, self._mover(request))
            if not keys:
                self._check_still_there()
            return pb.Reply(id=request.id, object_list=pb.ObjectList(keys=keys))
        if what == "destroy":
            doomed = request.destroy
            self._index.forget(doomed.object_id)
            found = keypairs.destroy(session, name, doomed.object_id, doomed.public_key)
            if not found:
                self._check_still_there()
            return pb.Reply(id=request.id, destroyed=pb.Destroyed(found=found))
        raise DeviceFaultError(f"token {name}: its host does not know request {what}", token=name)

    def _known(self, wanted: bytes) -> list[pb.KeyObject]:
        """The pair with that CKA_ID by what is remembered, read anew; empty where that is no help:
        then the token is searched."""
        pair = self._index.known(wanted)
        if pair is None or not pair.is_single or self._token.is_yubikey:
            return []
        try:
            key = keypairs.describe(pair.privates[0], pair.publics[0])
            fits = key.object_id == keypairs.object_id(pair.publics[0]) == wanted
        except pkcs11.PKCS11Error:
            fits = False
        if not fits:
            self._index.forget(wanted)
        return [key] if fits else []

    def _mover(self, request: pb.Request) -> Callable[[], None]:
        """Says now and then that the request still moves."""
        told_at = time.monotonic()

        def moved() -> None:
            nonlocal told_at
            if (now := time.monotonic()) - told_at >= _PROGRESS_S:
                told_at = now
                self._send(pb.Reply(id=request.id, progress=pb.Progress()))

        return moved

    def _on_yubikey(self, request: pb.Request) -> pb.Reply:
        probed = self._token.probe()
        if not probed.HasField("token"):
            raise self._token.fault(pkcs11.TokenNotPresent(), "looking for the YubiKey")
        try:
            # Takes a quarter of a second, which no other token should pay for.
            from keyd.device.yubikey import YubiKeyHand
        except ImportError as error:
            raise DeviceFaultError(
                f"token {self._token.name}: yubikit is missing ({error.name})",
                hint=INSTALL_YUBIKIT,
                token=self._token.name,
            ) from error
        order = request.yubikey
        if order.WhichOneof("what") == "generate":
            # Made is soon said: whether libykcs11 can sign with it is asked first.
            session = self._token.open_session()
            algorithm = KeyAlgorithm(order.generate.algorithm)
            ykcs11.check_can_sign(
                session.token.slot, algorithm, self._token.name, self._token.library_version
            )

        def tell(wait: pb.TouchWait | None) -> None:
            self._send(pb.Reply(id=request.id, progress=pb.Progress(touch=wait)))

        hand = YubiKeyHand(self._token.name, probed.token.serial, self._token.accepted_pin, tell)
        return pb.Reply(id=request.id, yubikey=hand.carry_out(order))

    def _check_still_there(self) -> None:
        """A token that went away shows as an empty one: never believe that unasked."""
        if not self._token.answers():
            raise self._token.fault(pkcs11.TokenNotPresent(), "looking for keys")

    def _login(self, request: pb.Request) -> pb.Reply:
        info, error, pin_sent = self._token.login(request.login)
        if error is not None:
            return pb.Reply(id=request.id, failure=failure_message(error, pin_sent=pin_sent))
        policies = [
            pb.KeyPolicy(object_id=object_id, touch=policy.touch)
            for object_id, policy in self._token.policies.items()
            if policy.touch != "never"
        ]
        return pb.Reply(id=request.id, logged_in=pb.LoggedIn(token=info, policies=policies))

    def _sign(self, request: pb.Request) -> pb.Reply:
        self._told_at = time.monotonic()
        waits = False

        def tell(wait: pb.TouchWait | None) -> None:
            nonlocal waits
            now = time.monotonic()
            if waits or wait is not None or now - self._told_at >= _PROGRESS_S:
                self._told_at, waits = now, wait is not None
                self._send(pb.Reply(id=request.id, progress=pb.Progress(touch=wait)))

        return pb.Reply(id=request.id, signed=self._signer.sign(request.sign_many, tell))


def main() -> int:
    """Run one host; see the arguments' help."""
    parser = argparse.ArgumentParser(prog="keyd.device.host", description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="process id of the daemon")
    parser.add_argument("--fd", type=int, required=True, help="our end of the socketpair")
    parser.add_argument("--name", required=True, help="the token's configured name")
    parser.add_argument("--module", type=Path, required=True, help="the PKCS#11 library")
    parser.add_argument("--label", default="", help="the token's label")
    parser.add_argument("--serial", default="", help="the token's serial")
    parser.add_argument("--lock", type=Path, required=True, help="held while this host lives")
    parser.add_argument("--init-lock", type=Path, required=True, help="held during C_Initialize")
    arguments = parser.parse_args()

    protect(arguments.parent)
    selector = Selector(arguments.name, arguments.label, arguments.serial)
    with socket.socket(fileno=arguments.fd) as connection:
        if take_lock(arguments.lock) is None:
            error = DeviceFaultError(
                f"token {arguments.name}: another host holds {arguments.lock}", token=arguments.name
            )
            connection.sendall(pack(pb.Reply(failure=failure_message(error))))
            return EXIT_LOCKED
        token = TokenSession(arguments.module, selector, arguments.init_lock)
        # The daemon may be gone before it read our answer.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            Host(connection, token).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
