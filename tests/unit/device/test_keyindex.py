"""Which objects have which CKA_ID: remembered, searched for, and gone through once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pkcs11
import pytest
from pkcs11 import Attribute, ObjectClass

from keyd.device.keyindex import KeyIndex


@dataclass(eq=False)
class AnObject:
    """A key on the token."""

    object_id: bytes
    object_class: ObjectClass

    def __getitem__(self, attribute: Attribute) -> bytes:
        assert attribute is Attribute.ID
        return self.object_id


class ASession:
    """Searches a list, and counts how often."""

    def __init__(self, objects: list[AnObject]) -> None:
        self.token = SimpleNamespace(manufacturer_id="SoftHSM project")
        self.objects = objects
        self.searches = 0
        self.is_gone = False

    def get_objects(self, wanted: dict[Attribute, Any]) -> Iterator[AnObject]:
        """Those that match."""
        self.searches += 1
        if self.is_gone:
            raise pkcs11.SessionHandleInvalid
        for obj in list(self.objects):
            if all(_value(obj, name) == value for name, value in wanted.items()):
                yield obj


def _value(obj: AnObject, name: Attribute) -> object:
    return obj.object_id if name is Attribute.ID else obj.object_class


class ALogin:
    """A login on a token with these objects, and two sessions."""

    def __init__(self) -> None:
        self.objects: list[AnObject] = []
        self.generation = 1
        self.is_yubikey = False
        self.session: Any = ASession(self.objects)
        self.beside: Any = ASession(self.objects)

    def open_session(self) -> Any:
        """The first one."""
        return self.session

    def open_beside(self) -> Any:
        """The second one."""
        return self.beside

    def add(self, object_id: bytes) -> tuple[Any, Any]:
        """A pair, made by whomever."""
        private = AnObject(object_id, ObjectClass.PRIVATE_KEY)
        public = AnObject(object_id, ObjectClass.PUBLIC_KEY)
        self.objects += (private, public)
        return private, public


def an_index(login: ALogin, *, most: int = 100, patience_s: float = 0.0) -> KeyIndex:
    return KeyIndex(login, most=most, patience_s=patience_s)


def go_through(index: KeyIndex) -> None:
    """As a host does in the quiet."""
    for _ in range(1000):
        if not index.is_behind:
            return
        index.go_on(0.0)
    raise AssertionError("never through")


def test_what_was_made_or_found_is_not_searched_for_again() -> None:
    login = ALogin()
    index = an_index(login, patience_s=60.0)
    index.remember(b"made", *login.add(b"made"))
    login.add(b"found")

    index.search(b"found")
    for wanted in (b"made", b"found"):
        pair = index.known(wanted)
        assert pair is not None and pair.is_single and index.is_taken(wanted)

    assert login.session.searches == 1
    assert not index.is_behind  # one search was fast enough


def test_after_a_slow_search_all_keys_are_gone_through_once_and_none_is_searched_for() -> None:
    login = ALogin()
    ids = [bytes([n]) for n in range(30)]
    for object_id in ids:
        login.add(object_id)
    index = an_index(login)

    index.search(ids[0])
    go_through(index)

    pairs = [index.known(object_id) for object_id in ids]
    assert all(pair is not None and pair.is_single for pair in pairs)
    assert not index.is_taken(b"nobody's")
    assert (login.session.searches, login.beside.searches) == (1, 2)


def test_an_id_is_searched_for_as_long_as_not_all_keys_were_gone_through() -> None:
    login = ALogin()
    index = an_index(login, patience_s=60.0)
    login.add(b"another's")

    assert index.is_taken(b"another's")
    assert not index.is_taken(b"free")

    assert login.session.searches == 2


def test_a_token_that_searches_slowly_is_not_asked_about_a_new_id() -> None:
    login = ALogin()
    index = an_index(login)
    for n in range(5):
        login.add(bytes([n]))
    index.search(bytes([0]))
    assert index.is_behind

    assert index.is_taken(bytes([0]))
    assert not index.is_taken(b"new")

    assert login.session.searches == 1


def test_one_search_in_the_quiet_after_a_login_tells_whether_to_go_through_all_keys() -> None:
    slow, fast = ALogin(), ALogin()
    for login, patience_s in ((slow, 0.0), (fast, 60.0)):
        login.add(b"key")
        go_through(an_index(login, patience_s=patience_s))

    assert (slow.session.searches, slow.beside.searches) == (1, 2)
    assert (fast.session.searches, fast.beside.searches) == (1, 0)


def test_handles_do_not_outlive_their_login() -> None:
    login = ALogin()
    index = an_index(login)
    index.remember(b"key", *login.add(b"key"))
    login.generation += 1

    assert index.known(b"key") is None


def test_no_more_pairs_are_remembered_than_allowed_and_the_rest_is_searched_for() -> None:
    login = ALogin()
    index = an_index(login, most=3)
    for n in range(5):
        login.add(bytes([n]))

    index.search(bytes([4]))
    go_through(index)

    assert sum(index.known(bytes([n])) is not None for n in range(5)) == 3
    assert all(index.is_taken(bytes([n])) for n in range(5))


def test_a_pair_made_while_the_keys_are_gone_through_stays_as_it_was_made() -> None:
    login = ALogin()
    index = an_index(login)
    for n in range(5):
        login.add(bytes([n]))
    index.search(bytes([0]))
    private, public = login.add(b"new")
    index.remember(b"new", private, public)

    go_through(index)

    pair = index.known(b"new")
    assert pair is not None and (pair.privates, pair.publics) == ([private], [public])


def test_a_token_that_fails_while_its_keys_are_gone_through_is_searched_as_before() -> None:
    login = ALogin()
    login.add(b"key")
    login.beside.is_gone = True
    index = an_index(login)

    index.search(b"key")
    go_through(index)

    assert index.known(b"key") is not None
    assert not index.is_taken(b"free")
    assert login.session.searches == 2


def test_two_pairs_of_one_id_are_both_told() -> None:
    login = ALogin()
    login.add(b"twice")
    login.add(b"twice")
    login.add(b"once")
    index = an_index(login)

    index.search(b"once")
    go_through(index)

    pair = index.known(b"twice")
    assert pair is not None and not pair.is_single and len(pair.privates) == 2


def test_the_keys_of_a_yubikey_are_not_gone_through() -> None:
    login = ALogin()
    login.is_yubikey = True
    index = an_index(login)

    index.search(b"key")

    assert not index.is_behind


def test_a_session_that_is_gone_is_told_to_who_searches() -> None:
    login = ALogin()
    login.session.is_gone = True

    with pytest.raises(pkcs11.SessionHandleInvalid):
        an_index(login).search(b"key")
