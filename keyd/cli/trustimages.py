"""keydctl trust sign, revoke, inspect, resolve, certificate."""

from __future__ import annotations

import getpass
import json
import re
from pathlib import Path

import click

from keyd.adapters.notary import (
    changes,
    credentials,
    delegations,
    images,
    lookup,
    rootcert,
    signers,
)
from keyd.adapters.notary.collection import Collection
from keyd.adapters.notary.keyring import Held, KeyRing
from keyd.adapters.notary.names import DEFAULT_TAG, Image, parse_gun, parse_image
from keyd.adapters.notary.publication import Report
from keyd.adapters.notary.registry import Manifest
from keyd.adapters.notary.trusted import Trusted
from keyd.cli import output, trustshapes
from keyd.cli.exits import Exit
from keyd.cli.settings import Settings
from keyd.cli.trustdelegations import begin
from keyd.cli.trustsession import (
    RETRIES,
    RETRY,
    TOKEN,
    YES,
    Session,
    TrustCommand,
    answer,
    now,
)
from keyd.errors import InvalidRequestError, KeydError, RepositoryError

IMAGE = click.argument("image", metavar="IMAGE[:TAG]")
SIGNER = click.option(
    "--signer", "names", multiple=True, metavar="NAME", help="Sign as this signer; repeatable."
)


@click.command(cls=TrustCommand)
@IMAGE
@SIGNER
@click.option("--rootkey", "root_key", default="", metavar="KEY", help="For a new collection.")
@TOKEN
@RETRY
@click.pass_obj
def sign(
    settings: Settings, image: str, names: tuple[str, ...], root_key: str, token: str, retry: bool
) -> int:
    """Sign a tag as it is in the registry now, the tag latest where none is given.

    It is signed in targets/releases, and in the role of each signer whose key your grants let you
    sign with, or of NAME only; in targets where the repository has no signers. A repository that
    has no collection gets one, with NAME, or you, as its first signer.
    """
    asked = _with_tag(image)
    session = Session(settings, f"trust sign {asked.gun}:{asked.tag}", token)
    manifest = session.manifest(asked)
    collection = session.collection(asked.gun)
    report, trusted = Report(), collection.find(is_expired_taken=True)
    if trusted is None:
        if len(names) > 1:
            raise click.UsageError("a repository begins with one signer; name the others later")
        names = names or (_own_name(session, asked),)
        begin(collection, root_key)
        _first_signer(collection, names[0])
        report = collection.publish()
        trusted = collection.get()
    chosen = _chosen(trusted, collection, names)
    _tell_existing(trusted, asked, manifest)
    for role in chosen.roles:
        digests = {"sha256": manifest.digest}
        collection.stage(changes.add(role, asked.tag, manifest.size, digests))
    done = collection.publish(retries=RETRIES if retry else 0)
    done.published = {**report.published, **done.published}
    done.notes = report.notes + done.notes
    by = ", ".join(chosen.names) or "its owner"
    output.note(f"signed {asked.familiar} as sha256:{manifest.digest.hex()} by {by}")
    return answer(
        settings,
        done,
        asked.gun,
        tag=asked.tag,
        digest=f"sha256:{manifest.digest.hex()}",
        size=manifest.size,
        roles=list(chosen.roles),
        signers=list(chosen.names),
    )


def _chosen(trusted: Trusted, collection: Collection, names: tuple[str, ...]) -> signers.Signing:
    """Who signs, with keys of nobody else."""
    chosen = signers.choose(trusted, collection, names)
    collection.ring.signers = chosen.keys
    if len(chosen.names) > 1 and not names:
        output.note(
            f"you may sign with the keys of {', '.join(chosen.names)}: as all of them; "
            "--signer NAME is for one"
        )
    return chosen


@click.command(cls=TrustCommand)
@IMAGE
@SIGNER
@YES
@RETRY
@click.pass_obj
def revoke(settings: Settings, image: str, names: tuple[str, ...], yes: bool, retry: bool) -> int:
    """Take the signatures of a tag back, or those of all tags where none is given.

    They are those of each signer whose key your grants let you sign with, and the owner's, or those
    of NAME only.
    """
    asked = parse_image(image)
    if asked.digest:
        raise _by_digest()
    if not asked.tag:
        settings.confirm(f"Take back all signatures of {asked.familiar}?", asked.familiar, yes)
    session = Session(settings, f"trust revoke {asked.gun} {asked.tag}".rstrip())
    collection = session.collection(asked.gun)
    trusted = collection.get()
    held, by = _revocable(trusted, collection, names)
    taken = images.removal(trusted, sorted(held), asked.tag)
    collection.stage(*taken)
    report = collection.publish(retries=RETRIES if retry else 0)
    tags = sorted({change.name for change in taken})
    for tag, role in images.still_pulled(collection.get(), tags):
        output.warn(f"docker still pulls {tag}: {role} signs it")
    return answer(settings, report, asked.gun, tags=tags, signers=by)


def _revocable(
    trusted: Trusted, collection: Collection, names: tuple[str, ...]
) -> tuple[set[str], list[str]]:
    """The roles that signatures are taken from, and the signers whose they are."""
    try:
        chosen = _chosen(trusted, collection, names)
    except RepositoryError:
        # The owner alone may take back what targets itself signs, and needs no signer's key.
        if names or not trusted.targets_document().targets:
            raise
        return {"targets"}, []
    return {*chosen.roles, *({"targets"} if not names else ())}, list(chosen.names)


@click.command(cls=TrustCommand)
@click.argument("names", nargs=-1, required=True, metavar="IMAGE[:TAG]...")
@click.option("--pretty", is_flag=True, help="For people.")
@click.pass_obj
def inspect(settings: Settings, names: tuple[str, ...], pretty: bool) -> int:
    """Show who signs the tags of images or repositories, verified, as docker trust inspect does.

    What was found is shown where others fail too; then the exit code is that of the first failure.
    """
    shown, errors = [], []
    for asked, name in [(parse_image(name), name) for name in names]:
        if asked.digest:
            raise _by_digest()
        try:
            trusted = Session(settings, "").collection(asked.gun).get()
        except KeydError as e:
            errors.append(e)
            continue
        trustshapes.warn(trusted)
        shown.append(images.inspected(trusted, name, asked.tag))
    if pretty and not settings.json:
        if shown:
            output.write("\n\n\n".join(trustshapes.inspected_text(each) for each in shown))
    else:
        text = json.dumps(shown, indent=4, ensure_ascii=False)  # docker's own bytes
        output.write_bytes(text.encode() + b"\n")
    for error in errors[1:]:
        output.warn(error.message)
    if errors:
        raise errors[0]
    return Exit.DONE


@click.command(cls=TrustCommand)
@click.argument("image", metavar="IMAGE[:TAG]")
@click.pass_obj
def resolve(settings: Settings, image: str) -> int:
    """Print IMAGE by the digest that is signed for its tag; exit code 1 where none is.

    What to run is decided by this and not by the registry: a tag that was moved there still gives
    the signed digest. No docker is needed.
    """
    asked = _with_tag(image)
    trusted = Session(settings, "").collection(asked.gun).get()
    for role, why in trusted.problems.items():
        output.warn(f"{role} does not count: {why}")
    found = lookup.tag(trusted, asked.tag)
    digest = f"sha256:{found.digest.hex()}"
    by_digest = Image(asked.host, asked.path).familiar + f"@{digest}"
    signers = images.signed_tags(trusted, asked.tag)
    named = [name for row in signers if row.digest == found.digest.hex() for name in row.signers]
    settings.answer(
        {
            "image": by_digest,
            "gun": asked.gun,
            "tag": asked.tag,
            "digest": digest,
            "size": found.target.length,
            "role": found.role,
            "signers": named,
        },
        by_digest,
    )
    return Exit.DONE


@click.command(cls=TrustCommand)
@click.argument("key")
@click.option("--gun", default="", help="For the root of this collection.")
@click.option("--role", default="root", show_default=True, help="Which role it shall sign.")
@click.option("--name", "common_name", default="", help="Another common name. [GUN, or ROLE]")
@click.option("--csr", is_flag=True, help="A request for somebody else's CA.")
@click.option(
    "-o", "--output", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write here."
)
@click.pass_obj
def certificate(
    settings: Settings,
    key: str,
    gun: str,
    role: str,
    common_name: str,
    csr: bool,
    file: Path | None,
) -> int:
    """Make an X.509 certificate of KEY, signed by itself, or a request (--csr).

    The owner of a repository adds it with `trust delegation add`. A key that is bound makes one
    only in the name of a collection or role that it is bound to.
    """
    name = parse_gun(gun) if gun else ""
    if role == "root" and not (name or common_name):
        raise click.UsageError("say for which collection (--gun), role (--role) or --name it is")
    session = Session(settings, f"trust certificate {key}")
    held = _held(session, key)
    # A key bound by a pattern signs for a collection that is named; any one that fits will do.
    bound = sorted(b.repository for b in held.key.bindings if b.role == role)
    ring = KeyRing(name or (bound[0] if bound else ""), session.client, reason=session.reason)
    subject = rootcert.Subject(
        held.version.public_key, common_name or (name if role == "root" else role)
    )
    sign_x509 = ring.certify(held, role if ring.gun else "")
    made = (
        rootcert.request(subject, sign_x509)
        if csr
        else rootcert.self_signed(subject, sign_x509, now())
    )
    pem = rootcert.pem(made).decode("ascii")
    if file is not None:
        file.write_text(pem)
    text = f"wrote {file}" if file else pem.rstrip("\n")
    settings.answer(
        {
            "key_version": held.version.name,
            "common_name": subject.common_name,
            "pem": pem,
            "file": str(file) if file else None,
        },
        text,
    )
    return Exit.DONE


def _held(session: Session, key: str) -> Held:
    found = session.client().get_key(key)
    version = found.active
    if version is None or not version.public_key:
        raise InvalidRequestError("key", f"{key} has no version that signs")
    return Held(found, version)


def _with_tag(text: str) -> Image:
    found = parse_image(text)
    if found.digest:
        raise _by_digest()
    return Image(found.host, found.path, found.tag or DEFAULT_TAG)


def _by_digest() -> InvalidRequestError:
    return InvalidRequestError(
        "name",
        "tags are signed, and this names an image by its digest",
        hint="name the image by its tag; what has a digest is what it says without a signature",
    )


def _own_name(session: Session, image: Image) -> str:
    """docker's user of the registry, else the one of this machine, as the name of a signer."""
    login = credentials.find_login(session.trust.docker_dir, image.host)
    name = (login.user if login else "") or getpass.getuser()
    return re.sub(r"[^a-z0-9_-]", "-", name.lower()).strip("-_") or "owner"


def _first_signer(collection: Collection, name: str) -> None:
    """The first signer has a key of the collection's own, as docker makes it."""
    role = delegations.signer_role(name)
    held = collection.ring.ensure(role)
    collection.ring.bound(held.key, lookup.RELEASES)
    if not any(change.action == "delegate" for change in collection.staged()):
        collection.stage(*delegations.signer(name, [held.object]))


def _tell_existing(trusted: Trusted, image: Image, manifest: Manifest) -> None:
    for row in images.signed_tags(trusted, image.tag):
        same = row.digest == manifest.digest.hex()
        digest = f"{row.digest}" + ("" if same else ", another one than now")
        output.note(
            f"existing signatures for tag {image.tag} digest {digest} from: "
            + ", ".join(row.signers)
        )


COMMANDS = (sign, revoke, inspect, resolve, certificate)
