"""What yubikit does with the YubiKey that is this host's token. Host side, one order at a time.

libykcs11 sets no policies, attests nothing and has no AES management key, so all that is yubikit's.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from smartcard.Exceptions import SmartcardException
from ykman.pcsc import ScardSmartCardConnection
from ykman.piv import get_pivman_protected_data, sign_certificate_builder
from yubikit.core import CommandError, InvalidPinError, NotSupportedError
from yubikit.core.smartcard import SW, ApduError
from yubikit.piv import (
    KEY_TYPE,
    PIN_POLICY,
    SLOT,
    TOUCH_POLICY,
    PivSession,
)

from keyd.device.settings import TOUCH_WINDOW_S
from keyd.device.v1 import device_pb2 as pb
from keyd.device.yubikey_card import RETRY_AFTER_S, reach
from keyd.device.yubikey_init import opens, set_up
from keyd.device.yubikey_look import KINDS, look, slot_content
from keyd.errors import (
    DeadlineError,
    DeviceFaultError,
    DeviceGoneError,
    MechanismMissingError,
    PinRefusedError,
    TokenError,
    TokenLockedError,
    TokenObjectError,
)
from keyd.model import KeyAlgorithm

_PROTECT = "put it there with: ykman piv access change-management-key --generate --protect"
_YEARS = timedelta(days=365 * 30)
_NO_TOUCH = (SW.SECURITY_CONDITION_NOT_SATISFIED, SW.CONDITIONS_NOT_SATISFIED)


class YubiKeyHand:
    """The PIV applet of one YubiKey. ``token``: the configured name, for messages; ``serial``:
    decimal; ``pin``: the one this host is logged in with, or None; ``tell``: called when it begins
    to wait for a touch, and with None when it no longer does."""

    def __init__(
        self,
        token: str,
        serial: str,
        pin: str | None,
        tell: Callable[[pb.TouchWait | None], None],
    ) -> None:
        self._token = token
        self._serial = serial
        self._pin = pin
        self._tell = tell

    def carry_out(self, order: pb.YubiKeyOrder) -> pb.YubiKeyReport:
        """Do it.

        Raises:
            TokenError: why not; a secret that was refused is not tried again.
        """
        try:
            with reach(self._token, self._serial) as connection:
                return self._carry_out(order, connection)
        except InvalidPinError as error:
            raise self._refused(order, error.attempts_remaining) from None
        except NotSupportedError as error:
            raise MechanismMissingError(
                f"YubiKey {self._serial} cannot do that: {error}", token=self._token
            ) from error
        except ApduError as error:
            raise self._fault(f"answered {error.sw:04X}") from error
        except SmartcardException as error:
            raise DeviceGoneError(
                f"YubiKey {self._serial} is not to be reached: it was pulled, or pcscd is away",
                retry_after_s=RETRY_AFTER_S,
                token=self._token,
            ) from error
        except (CommandError, ValueError) as error:
            # Not quoted: what yubikit says of a wrong value may hold it.
            raise self._fault(f"did not do that ({type(error).__name__})") from None

    def _carry_out(
        self, order: pb.YubiKeyOrder, connection: ScardSmartCardConnection
    ) -> pb.YubiKeyReport:
        what = order.WhichOneof("what")
        if what == "look":
            return pb.YubiKeyReport(state=look(connection, self._serial))
        piv = PivSession(connection)
        if what == "init":
            notes = self._init(piv, order.init)
            return pb.YubiKeyReport(done=pb.YubiKeyDone(notes=notes))
        if what == "check_pin":
            piv.verify_pin(order.check_pin.pin.decode())
            return pb.YubiKeyReport(done=pb.YubiKeyDone())
        if what == "change_pin":
            piv.change_pin(order.change_pin.old_pin.decode(), order.change_pin.new_pin.decode())
            return pb.YubiKeyReport(done=pb.YubiKeyDone())
        if what == "unblock":
            piv.unblock_pin(order.unblock.puk.decode(), order.unblock.new_pin.decode())
            return pb.YubiKeyReport(done=pb.YubiKeyDone())
        if what == "generate":
            return pb.YubiKeyReport(made=self._generate(piv, order.generate))
        if what == "attest":
            return pb.YubiKeyReport(attestation=self._attest(piv, SLOT(order.attest.slot)))
        if what == "write_certificate":
            self._write_certificate(piv, order.write_certificate)
            return pb.YubiKeyReport(done=pb.YubiKeyDone())
        raise self._fault(f"is asked for {what}, which its host does not know")

    # -- secrets ---------------------------------------------------------------------------

    def _init(self, piv: PivSession, order: pb.YubiKeyInit) -> list[str]:
        notes = set_up(piv, order.pin.decode(), order.puk.decode())
        if notes is None:
            raise self._other_management_key("the factory's")
        return notes

    def _authenticate(self, piv: PivSession) -> None:
        """With the management key that lies behind the PIN, which is verified already."""
        stored = get_pivman_protected_data(piv).key
        if stored is None:
            raise TokenObjectError(
                f"the management key of YubiKey {self._serial} does not lie behind its PIN",
                hint=_PROTECT,
                token=self._token,
            )
        if not opens(piv, stored):
            raise self._other_management_key("the one behind its PIN")

    def _other_management_key(self, expected: str) -> TokenObjectError:
        return TokenObjectError(
            f"YubiKey {self._serial} has another management key than {expected}",
            hint=_PROTECT,
            token=self._token,
        )

    def _verify_own_pin(self, piv: PivSession) -> None:
        if self._pin is None:
            raise TokenLockedError(
                f"token {self._token} is not logged in, and this takes its PIN",
                hint=f"keydctl token unlock {self._token}",
                token=self._token,
            )
        piv.verify_pin(self._pin)

    # -- keys ------------------------------------------------------------------------------

    def _generate(self, piv: PivSession, order: pb.YubiKeyGenerate) -> pb.YubiKeyMade:
        slot, kind = SLOT(order.slot), KINDS[KeyAlgorithm(order.algorithm)]
        self._check_empty(piv, slot)
        policies = PIN_POLICY[order.pin_policy.upper()], TOUCH_POLICY[order.touch_policy.upper()]
        piv.check_key_support(kind, *policies, generate=True)
        self._verify_own_pin(piv)
        self._authenticate(piv)
        # Looked at once more where nobody can come between: what is overwritten is lost for ever.
        self._check_empty(piv, slot)
        public = piv.generate_key(slot, kind, *policies)
        self._verify_own_pin(piv)
        now = datetime.fromtimestamp(order.now, UTC)
        name = x509.Name(
            [
                x509.NameAttribute(x509.NameOID.COMMON_NAME, order.common_name),
                x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "keyd"),
            ]
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + _YEARS)
        )
        digest = hashes.SHA384 if kind is KEY_TYPE.ECCP384 else hashes.SHA256
        if policies[1] is not TOUCH_POLICY.NEVER:
            self._tell(pb.TouchWait(window_s=TOUCH_WINDOW_S, certain=True))
        try:
            certificate = sign_certificate_builder(piv, slot, kind, builder, digest)
        except ApduError as error:
            if error.sw not in _NO_TOUCH:
                raise
            raise DeadlineError(
                f"YubiKey {self._serial} was not touched in time: the key lies in slot "
                f"{slot:02x} and has signed nothing yet",
                hint=f"keyd tries it again at the next login, touch it then: keydctl token lock "
                f"{self._token}, keydctl token unlock {self._token}; then: keydctl yubikey attest "
                f"{self._token} {slot:02x}",
                token=self._token,
            ) from error
        finally:
            self._tell(None)
        piv.put_certificate(slot, certificate)
        return pb.YubiKeyMade(
            public_key=public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            certificate=certificate.public_bytes(Encoding.DER),
            attestation=self._attest(piv, slot),
        )

    def _check_empty(self, piv: PivSession, slot: SLOT) -> None:
        found = slot_content(piv, slot)
        if found is None:
            return
        lies = found.algorithm or "a key or certificate of unknown kind"
        if found.certificate:
            subject = x509.load_der_x509_certificate(found.certificate).subject
            lies += f" with a certificate for {subject.rfc4514_string() or 'nobody'}"
        raise TokenObjectError(
            f"slot {slot:02x} of YubiKey {self._serial} is occupied by {lies}; keyd never "
            "overwrites a key",
            hint=f"take another slot, or register it: keydctl key adopt NAME --slot {slot:02x} "
            f"--token {self._token}",
            token=self._token,
            slot=f"{slot:02x}",
        )

    def _attest(self, piv: PivSession, slot: SLOT) -> pb.YubiKeyAttestation:
        try:
            statement = piv.attest_key(slot)
        except ApduError as error:
            raise TokenObjectError(
                f"YubiKey {self._serial} attests no key in slot {slot:02x}: there is none, or it "
                "was made elsewhere and imported",
                hint=f"keydctl yubikey list {self._token}",
                token=self._token,
                slot=f"{slot:02x}",
            ) from error
        return pb.YubiKeyAttestation(
            statement=statement.public_bytes(Encoding.DER),
            device_certificate=piv.get_certificate(SLOT.ATTESTATION).public_bytes(Encoding.DER),
        )

    def _write_certificate(self, piv: PivSession, order: pb.YubiKeyWriteCertificate) -> None:
        slot = SLOT(order.slot)
        certificate = x509.load_der_x509_certificate(order.certificate)
        found = slot_content(piv, slot)
        spki = certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        if found is None or found.public_key != spki:
            raise TokenObjectError(
                f"the certificate is not for the key in slot {slot:02x} of YubiKey {self._serial}",
                hint=f"keydctl yubikey list {self._token}",
                token=self._token,
                slot=f"{slot:02x}",
            )
        self._verify_own_pin(piv)
        self._authenticate(piv)
        piv.put_certificate(slot, certificate)

    # -- errors ----------------------------------------------------------------------------

    def _refused(self, order: pb.YubiKeyOrder, left: int) -> TokenError:
        by_puk = order.WhichOneof("what") == "unblock"
        what = "PUK" if by_puk else "PIN"
        if left:
            tries = f"{left} {'try is' if left == 1 else 'tries are'} left"
            return PinRefusedError(
                f"YubiKey {self._serial} refused the {what}: {tries}",
                hint="keyd does not try it again; be sure of it before you do",
                token=self._token,
                tries=left,
            )
        hint = (
            "a YubiKey without PIN and PUK can only be reset, which destroys its keys"
            if by_puk
            else f"unblock it with its PUK: keydctl yubikey unblock {self._token}"
        )
        return TokenLockedError(
            f"the {what} of YubiKey {self._serial} is blocked", hint=hint, token=self._token
        )

    def _fault(self, why: str) -> DeviceFaultError:
        return DeviceFaultError(f"YubiKey {self._serial} {why}", token=self._token)
