"""YubiKeys and attestations as keydctl shows them."""

from __future__ import annotations

import base64
import json
import textwrap

from keyd.cli import output
from keyd.client import Attestation, PluggedIn, YubiKey, YubiKeySlot


def yubikey_json(y: YubiKey) -> dict[str, object]:
    """A YubiKey's stable keys; only the first three where it could not be read."""
    shown: dict[str, object] = {"token": y.token, "serial": y.serial, "problem": y.problem}
    if y.state is None:
        return shown
    s = y.state
    return {
        **shown,
        "firmware": s.firmware,
        "form_factor": s.form_factor,
        "pin_tries": s.pin_tries,
        "puk_tries": s.puk_tries if s.pin_tries_of else None,
        "factory": sorted(s.factory),
        "management_algorithm": s.management_algorithm,
        "management_protected": s.management_protected,
        "slots": [_slot_json(c) for c in y.slots],
    }


def _slot_json(c: YubiKeySlot) -> dict[str, object]:
    return {
        "slot": str(c.slot),
        "algorithm": c.algorithm,
        "pin_policy": c.pin.value if c.pin else "",
        "touch_policy": c.touch.value if c.touch else "",
        "origin": c.origin,
        "registered_as": c.registered_as,
        "public_key": base64.b64encode(c.public_key).decode(),
        "certificate": pem(c.certificate) if c.certificate else "",
    }


def shown(y: YubiKey) -> str:
    """Everything about one YubiKey."""
    if y.state is None:
        return problem_text(y)
    s = y.state
    tries = f"PIN {s.pin_tries}"
    if s.pin_tries_of:
        tries = f"PIN {s.pin_tries} of {s.pin_tries_of}, PUK {s.puk_tries} of {s.puk_tries_of}"
    management = s.management_algorithm or "of unknown kind"
    head = output.fields(
        [
            ("token", y.token),
            ("serial", s.serial),
            ("firmware", s.firmware),
            ("form factor", s.form_factor),
            ("tries left", tries),
            ("management key", management + (", behind the PIN" if s.management_protected else "")),
            ("FACTORY", _factory(y, s.factory) if s.factory else ""),
        ]
    )
    rows = [
        (
            str(c.slot),
            c.algorithm or "unknown",
            c.pin or "",
            c.touch or "",
            c.origin,
            "yes" if c.certificate else "no",
            c.registered_as,
        )
        for c in y.slots
    ]
    headers = ("SLOT", "ALGORITHM", "PIN", "TOUCH", "ORIGIN", "CERTIFICATE", "REGISTERED AS")
    return f"{head}\n\n{output.table(headers, rows) if rows else 'no keys'}"


def problem_text(y: YubiKey) -> str:
    """Why one could not be read; names the token once."""
    return y.problem if y.token in y.problem.split() else f"{y.token}: {y.problem}"


def _factory(y: YubiKey, factory: frozenset[str]) -> str:
    names = ", ".join(sorted(factory)).replace("-", " ")
    return f"{names}: everybody knows these; keydctl yubikey init {y.token} --factory"


def plugged_in_json(y: PluggedIn) -> dict[str, object]:
    """A YubiKey that is no token yet; ``token`` is empty, and ``configuration`` what makes it one
    in keyd.toml."""
    return {
        "token": "",
        "serial": y.serial,
        "problem": "",
        "firmware": y.firmware,
        "form_factor": y.form_factor,
        "reader": y.reader,
        "configuration": _configuration(y),
    }


def plugged_in_text(y: PluggedIn) -> str:
    """What it is, and how it becomes a token."""
    head = output.fields(
        [
            ("not configured", f"YubiKey {y.serial}"),
            ("firmware", y.firmware),
            ("form factor", y.form_factor),
            ("reader", y.reader),
        ]
    )
    return (
        f"{head}\n\nadd to keyd.toml of the daemon, then: systemctl restart keyd-server\n\n"
        f"{textwrap.indent(_configuration(y).rstrip(), '    ')}"
    )


def _configuration(y: PluggedIn) -> str:
    # TOML's basic strings are JSON's, for names of readers and files.
    module = json.dumps(y.module)
    return (
        f'[[token]]\nname = "{y.token}"\nmodule = {module}\nserial = "{y.serial}"\npin = "prompt"\n'
    )


def attestation_json(a: Attestation) -> dict[str, object]:
    """An attestation's stable keys."""
    return {
        "slot": a.slot,
        "serial": a.serial,
        "firmware": a.firmware,
        "form_factor": a.form_factor,
        "pin_policy": a.pin.value,
        "touch_policy": a.touch.value,
        "chain_sha256": list(a.fingerprints),
        "chain": [pem(der) for der in a.chain],
    }


def attestation_text(a: Attestation) -> str:
    """What is proven, in words."""
    return output.fields(
        [
            ("made in", f"slot {a.slot} of YubiKey {a.serial} ({a.form_factor}, {a.firmware})"),
            ("PIN", a.pin.value),
            ("touch", a.touch.value),
            ("root SHA-256", a.fingerprints[-1]),
        ]
    )


def pem(der: bytes) -> str:
    """A certificate as PEM text (RFC 7468), ending in a newline."""
    body = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
