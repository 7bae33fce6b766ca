"""Rules of X.509: a bound key makes certificates and requests of its own public key only, in the
name of what it is bound to, without any power over others. They leave no mark."""

from __future__ import annotations

import fnmatch
from datetime import datetime

from keyd.content.certificates import CertificateRequest, TbsCertificate
from keyd.content.describe import when
from keyd.content.refusal import printable
from keyd.errors import RuleRefusedError
from keyd.model import Binding
from keyd.rules.case import Asked, Verdict
from keyd.rules.refusal import refuse
from keyd.rules.root import covers


def judge_certificate(asked: Asked, request: CertificateRequest, now: datetime) -> Verdict:
    """The verdict over a TBSCertificate or a request, which has no effect to record.

    Raises:
        RuleRefusedError: certificate-key, certificate-name, certificate-ca, certificate-issuer,
            expired.
    """
    checks = [_key(asked, request), _names(asked, request), _power(asked, request)]
    if isinstance(request, TbsCertificate):
        checks += [_issuer(asked, request), _dates(asked, request, now)]
    return Verdict(effect=None, checks=tuple(checks))


def _key(asked: Asked, request: CertificateRequest) -> str:
    if not request.spki or request.spki != asked.version.public_key:
        raise _refuse(
            asked,
            "certificate-key",
            f"it is not for the public key of {asked.version.name}, which would sign it",
            f"put in the public key that keydctl key show {asked.key.name} prints",
        )
    return f"for the public key of {asked.version.name} itself"


def _names(asked: Asked, request: CertificateRequest) -> str:
    common_name = request.common_name
    for name in (common_name, *(n.partition(":")[2] for n in request.alternative_names)):
        if not _is_bound(asked, name):
            bindings = ", ".join(printable(str(b)) for b in sorted(asked.key.bindings))
            raise _refuse(
                asked,
                "certificate-name",
                f'the name "{printable(name)}" is none that {asked.key.name} is bound to '
                f"({bindings})",
                "use the name of the repository, or bind the key to it: keydctl key update "
                f"{asked.key.name} --bind REPO:ROLE",
            )
    return f"in the name of {printable(common_name)}, to which {asked.key.name} is bound"


def _is_bound(asked: Asked, name: str) -> bool:
    """True for the repository or role that is signed for, and for a Notary wildcard over the
    repository which a binding covers as a whole."""
    context = asked.context
    if not name:
        return False
    if context.repository:
        if name == context.repository:
            return True
        if covers(name, context.repository) and _by_binding(asked, name):
            return True
    elif _by_binding(asked, name):
        return True
    return name == context.role if context.role else any(name == b.role for b in _fitting(asked))


def _by_binding(asked: Asked, name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, b.repository) for b in _fitting(asked))


def _fitting(asked: Asked) -> list[Binding]:
    context = asked.context
    return [
        b
        for b in asked.key.bindings
        if (not context.repository or fnmatch.fnmatchcase(context.repository, b.repository))
        and (not context.role or fnmatch.fnmatchcase(context.role, b.role))
    ]


def _power(asked: Asked, request: CertificateRequest) -> str:
    if request.can_certify:
        raise _refuse(
            asked,
            "certificate-ca",
            "it claims power over other certificates (CA:TRUE, keyCertSign or cRLSign)",
            "make it CA:FALSE without these key usages; no bound key signs for a CA",
        )
    return "no power over other certificates"


def _issuer(asked: Asked, certificate: TbsCertificate) -> str:
    if not certificate.is_self_issued:
        raise _refuse(
            asked,
            "certificate-issuer",
            f"it says {printable(certificate.issuer)} issued it, not its own subject",
            "make issuer and subject equal, or sign a request and send that to the issuer",
        )
    return "issued by itself"


def _dates(asked: Asked, certificate: TbsCertificate, now: datetime) -> str:
    if certificate.not_after <= now:
        raise _refuse(
            asked,
            "expired",
            f"it ended at {when(certificate.not_after)}, it is {when(now)}",
            "give it an end in the future",
        )
    return f"valid until {when(certificate.not_after)}"


def _refuse(asked: Asked, rule: str, message: str, hint: str) -> RuleRefusedError:
    kind = "certificate" if isinstance(asked.content, TbsCertificate) else "certificate request"
    return refuse(rule, f"{kind}: {message}", hint=hint, context=asked.context, key=asked.key.name)
