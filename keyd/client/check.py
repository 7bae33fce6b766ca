"""The client believes no signature it has not checked itself.

A daemon that lies, or a proxy that mixes answers up, is caught here: the digest is computed from
the caller's own bytes, the key is compared with the expected one, and the signature is verified.
"""

from __future__ import annotations

from keyd import publickeys
from keyd.client.types import Signature
from keyd.errors import BadSignatureError, KeydError
from keyd.model import Digest, Encoding, HashAlgorithm, SignRequest


def check_signature(request: SignRequest, answer: Signature) -> Signature:
    """Return the answer when it is what was asked for.

    Raises:
        BadSignatureError: another digest, key, version, scheme or encoding than asked for, or a
            signature that does not verify.
    """
    _check_name(request, answer)
    _check_expected_key(request, answer)
    if request.scheme is not None and answer.scheme is not request.scheme:
        raise _liar(f"signed with {answer.scheme} where {request.scheme} was asked for", answer)
    own = _own_digest(request, answer)
    if answer.digest != own:
        raise _liar(f"signed {answer.digest}, not {own} as was asked", answer)
    if request.dry_run:
        if answer.signature:
            raise _liar("sent a signature for a dry run", answer)
        return answer
    if request.encoding is not None and answer.encoding is not request.encoding:
        raise _liar(f"encoded as {answer.encoding}, not {request.encoding} as asked", answer)
    try:
        raw = raw_signature(answer)
        publickeys.verify(
            answer.public_key,
            answer.scheme,
            raw,
            request.message if request.message is not None else own,
        )
    except BadSignatureError as e:
        raise _liar("sent a signature that does not verify", answer) from e
    except KeydError as e:
        raise _liar(f"sent a signature that cannot be checked ({e.message})", answer) from e
    return answer


def raw_signature(answer: Signature) -> bytes:
    """The signature as the key's algorithm makes it: ECDSA as r||s."""
    algorithm = publickeys.algorithm_of(answer.public_key)
    if algorithm.is_ecdsa and answer.encoding is Encoding.DER:
        return publickeys.to_raw(answer.signature, algorithm)
    return answer.signature


def _own_digest(request: SignRequest, answer: Signature) -> Digest:
    if request.digest is not None:
        return request.digest
    assert request.message is not None
    return Digest.of(answer.scheme.hash or HashAlgorithm.SHA256, request.message)


def _check_name(request: SignRequest, answer: Signature) -> None:
    wanted = request.key if "/versions/" in request.key else f"{request.key}/versions/"
    if request.version:
        wanted = f"{request.key}/versions/{request.version}"
    fits = (
        answer.key_version.startswith(wanted)
        if wanted.endswith("/")
        else answer.key_version == wanted
    )
    if not fits:
        raise _liar(f"signed with {answer.key_version} where {request.key} was asked for", answer)


def _check_expected_key(request: SignRequest, answer: Signature) -> None:
    if request.expected_public_key and answer.public_key != request.expected_public_key:
        raise _liar("signed with another public key than the expected one", answer)
    if request.expected_keyid:
        try:
            schemes = publickeys.algorithm_of(answer.public_key).schemes
        except KeydError as e:
            raise _liar(f"named a public key that cannot be read ({e.message})", answer) from e
        ids = {publickeys.tuf_keyid(answer.public_key, scheme) for scheme in schemes}
        ids.add(publickeys.notary_keyid(answer.public_key))
        if request.expected_keyid not in ids:
            raise _liar(
                f"signed with a key that has not the expected keyid {request.expected_keyid}",
                answer,
            )


def _liar(what: str, answer: Signature) -> BadSignatureError:
    return BadSignatureError(
        f"the daemon {what}",
        hint="do not use this signature; tell whoever runs the daemon",
        version=answer.key_version,
        log_index=answer.log_index,
    )
