"""libykcs11 behind a shim that writes down which sessions are opened and closed, which PINs reach
libykcs11, and how many sessions libykcs11 itself says are open after each login.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_SHIM = r"""
/* Forwards all to libykcs11. CK_FUNCTION_LIST (PKCS#11 v2.40, 6.5) is a version, then pointers in a
   fixed order; of CK_TOKEN_INFO (6.2) 96 bytes of text come first, then the flags and the counts:
   most sessions, sessions, most read-write sessions, read-write sessions. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
typedef unsigned long ulong;
struct list { unsigned char version[2]; void *function[68]; };
struct token { unsigned char text[96]; ulong flags, most, open, most_rw, open_rw, rest[16]; };
enum { INITIALIZE = 0, FINALIZE = 1, GET_FUNCTION_LIST = 3, GET_TOKEN_INFO = 6, OPEN_SESSION = 12,
       CLOSE_SESSION = 13, CLOSE_ALL = 14, LOGIN = 18, GENERAL_ERROR = 5 };
static struct list ours, *theirs;
static ulong slot_of_last;
static void note(const char *what, ulong number) {
    char line[64];
    int size = snprintf(line, sizeof line, "%s %lu\n", what, number);
    int file = open(JOURNAL, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (file < 0 || write(file, line, size) != size) _exit(70);
    close(file);
}
static ulong initialize(void *how) {
    ulong result = ((ulong (*)(void *))theirs->function[INITIALIZE])(how);
    if (!result) note("afresh", 0);
    return result;
}
static ulong finalize(void *reserved) {
    ulong result = ((ulong (*)(void *))theirs->function[FINALIZE])(reserved);
    if (!result) note("afresh", 0);
    return result;
}
static ulong open_session(ulong slot, ulong flags, void *application, void *notify, ulong *out) {
    ulong result = ((ulong (*)(ulong, ulong, void *, void *, ulong *))
        theirs->function[OPEN_SESSION])(slot, flags, application, notify, out);
    if (!result) { slot_of_last = slot; note("opened", 1); }
    return result;
}
static ulong close_session(ulong session) {
    ulong result = ((ulong (*)(ulong))theirs->function[CLOSE_SESSION])(session);
    if (!result) note("closed", 1);
    return result;
}
static ulong close_all(ulong slot) {
    ulong result = ((ulong (*)(ulong))theirs->function[CLOSE_ALL])(slot);
    if (!result) note("afresh", 0);
    return result;
}
static ulong login(ulong session, ulong user, unsigned char *pin, ulong length) {
    struct token token;
    ulong result = ((ulong (*)(ulong, ulong, unsigned char *, ulong))
        theirs->function[LOGIN])(session, user, pin, length);
    note(result ? "refused" : "accepted", result);
    memset(&token, 0, sizeof token);
    if (!((ulong (*)(ulong, void *))theirs->function[GET_TOKEN_INFO])(slot_of_last, &token))
        note("counted", token.open + token.open_rw);
    return result;
}
ulong C_GetFunctionList(struct list **out) {
    void *module = dlopen(LIBYKCS11, RTLD_NOW);
    ulong (*get)(struct list **);
    if (!module || !(get = (ulong (*)(struct list **))dlsym(module, "C_GetFunctionList")))
        return GENERAL_ERROR;
    if (get(&theirs)) return GENERAL_ERROR;
    memcpy(&ours, theirs, sizeof ours);
    ours.function[INITIALIZE] = (void *)initialize;
    ours.function[FINALIZE] = (void *)finalize;
    ours.function[OPEN_SESSION] = (void *)open_session;
    ours.function[CLOSE_SESSION] = (void *)close_session;
    ours.function[CLOSE_ALL] = (void *)close_all;
    ours.function[LOGIN] = (void *)login;
    ours.function[GET_FUNCTION_LIST] = (void *)C_GetFunctionList;
    *out = &ours;
    return 0;
}
"""


@dataclass(frozen=True, slots=True)
class Sessions:
    """``open``: opened and not closed since libykcs11 was last initialised; ``most``: of these at
    any time; ``counted``: the most that libykcs11 said were open after a login (ulSessionCount and
    ulRwSessionCount of C_GetTokenInfo). ``accepted`` and ``refused``: outcomes of C_Login."""

    open: int
    most: int
    counted: int
    accepted: int
    refused: int


class CountedModule:
    """libykcs11 for one token host, which ``module`` is the path of."""

    def __init__(self, ykcs11: Path, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            if "yubikey" in os.environ.get("KEYD_TESTS_REQUIRE", "").split(","):
                pytest.fail("a C compiler is required here")
            pytest.skip("needs a C compiler")
        self._journal = folder / "sessions"
        self._journal.touch()
        # The name by which keyd knows that a module is libykcs11.
        self.module = folder / "libykcs11-counted.so"
        source = folder / "counted.c"
        source.write_text(_SHIM)
        subprocess.run(
            [
                compiler,
                "-shared",
                "-fPIC",
                "-O1",
                f'-DJOURNAL="{self._journal}"',
                f'-DLIBYKCS11="{ykcs11}"',
                "-o",
                str(self.module),
                str(source),
            ],
            check=True,
            timeout=60,
        )

    @property
    def sessions(self) -> Sessions:
        """So far."""
        is_open = most = counted = accepted = refused = 0
        for line in self._journal.read_text().splitlines():
            what, number = line.split()
            if what == "afresh":
                is_open = 0
            elif what == "opened":
                is_open += 1
                most = max(most, is_open)
            elif what == "closed":
                is_open -= 1
            elif what == "counted":
                counted = max(counted, int(number))
            elif what == "accepted":
                accepted += 1
            else:
                refused += 1
        return Sessions(is_open, most, counted, accepted, refused)
