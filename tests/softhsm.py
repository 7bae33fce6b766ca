"""A SoftHSM of its own for each test: folder, configuration, tokens, PIN files.

Tokens are made by softhsm2-util before any host loads the library. Nothing here loads a PKCS#11
module into the test process.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from keyd.device.settings import TokenConfig

MODULE = next(
    (
        path
        for path in (
            Path("/usr/lib/softhsm/libsofthsm2.so"),
            Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
            Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
            Path("/usr/lib64/libsofthsm2.so"),
        )
        if path.is_file()
    ),
    None,
)
PIN = "31415926"
SO_PIN = "27182818"

_CONFIGURATION = """\
directories.tokendir = {tokens}
objectstore.backend = file
log.level = ERROR
slots.removable = false
"""


def require() -> Path:
    """The module's path; skips the test where SoftHSM is missing, unless KEYD_TESTS_REQUIRE
    lists ``softhsm``, as CI does."""
    if MODULE is not None and shutil.which("softhsm2-util"):
        return MODULE
    if "softhsm" in os.environ.get("KEYD_TESTS_REQUIRE", "").split(","):
        pytest.fail("SoftHSM is required here and not installed")
    pytest.skip("SoftHSM is not installed (package softhsm2)")


class SoftHsm:
    """One SoftHSM installation below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.module = require()
        self.folder = folder
        self.tokens = folder / "tokens"
        self.conf = folder / "softhsm2.conf"
        self.run_dir = folder / "run"
        self.tokens.mkdir(parents=True)
        self.run_dir.mkdir()
        self.conf.write_text(_CONFIGURATION.format(tokens=self.tokens))

    def init_token(self, label: str, pin: str = PIN) -> str:
        """Make a token; return its serial."""
        done = self._util(
            "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", SO_PIN
        )
        found = re.search(r"slot (\d+)", done)
        assert found is not None, done
        # SoftHSM makes the slot's number from the last 31 bits of the serial.
        wanted = int(found[1])
        for serial in self.serials():
            if int(serial[-8:], 16) & 0x7FFFFFFF == wanted:
                return serial
        raise AssertionError(f"no token in slot {wanted}")

    def serials(self) -> list[str]:
        """The serials of all initialized tokens, in the order SoftHSM lists them."""
        listing = self._util("--show-slots")
        return re.findall(r"Serial number:\s+([0-9a-f]{16})", listing)

    def pin_file(self, pin: str = PIN, name: str = "pin") -> Path:
        """A file with the PIN that only its owner can read."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(pin + "\n")
        return path

    def config(self, name: str = "main", **changes: Any) -> TokenConfig:
        """A token configuration: label ``name``, PIN from a file; ``changes`` replace fields."""
        fields: dict[str, Any] = {
            "name": name,
            "module": self.module,
            "label": name,
            "pin_source": f"file:{self.folder / 'pin'}",
            "softhsm_conf": self.conf,
        }
        return TokenConfig(**(fields | changes))

    def take_away(self) -> None:
        """The tokens vanish, as if somebody pulled them."""
        self.tokens.rename(self.folder / "tokens.away")

    def bring_back(self) -> None:
        """The tokens are where they were."""
        (self.folder / "tokens.away").rename(self.tokens)

    def _environment(self) -> dict[str, str]:
        return {"SOFTHSM2_CONF": str(self.conf), "PATH": os.environ["PATH"]}

    def _util(self, *arguments: str) -> str:
        return subprocess.run(
            ["softhsm2-util", *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout


_SHIM = r"""
/* A PKCS#11 module that is SoftHSM, except that
   - C_Login leaves one byte in FOLDER/logins each time, then hangs while FOLDER/hang exists;
   - token flags come with those that FOLDER/flags holds as a number;
   - signing data that starts with "CRASH" aborts, as does loading while FOLDER/crash exists.
   CK_FUNCTION_LIST (PKCS#11 v2.40, 6.5) is a version, then pointers in a fixed order; the flags
   of CK_TOKEN_INFO stand after 96 bytes of text. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef unsigned long ulong;
struct list { unsigned char version[2]; void *function[68]; };
enum { GET_FUNCTION_LIST = 3, GET_TOKEN_INFO = 6, LOGIN = 18, SIGN = 43, GENERAL_ERROR = 5 };
static struct list ours;
static ulong (*real_login)(ulong, ulong, unsigned char *, ulong);
static ulong (*real_sign)(ulong, unsigned char *, ulong, unsigned char *, ulong *);
static ulong (*real_token_info)(ulong, unsigned char *);
static ulong login(ulong session, ulong user, unsigned char *pin, ulong length) {
    int file = open(FOLDER "/logins", O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (file < 0 || write(file, "x", 1) != 1) return GENERAL_ERROR;
    close(file);
    while (access(FOLDER "/hang", F_OK) == 0) usleep(10000);
    return real_login(session, user, pin, length);
}
static ulong sign(ulong session, unsigned char *data, ulong size, unsigned char *out, ulong *len) {
    if (size >= 5 && memcmp(data, "CRASH", 5) == 0) abort();
    return real_sign(session, data, size, out, len);
}
static ulong token_info(ulong slot, unsigned char *info) {
    char text[32] = {0};
    ulong flags, result = real_token_info(slot, info);
    int file = result ? -1 : open(FOLDER "/flags", O_RDONLY);
    if (file < 0) return result;
    if (read(file, text, sizeof text - 1) > 0) {
        memcpy(&flags, info + 96, sizeof flags);
        flags |= strtoul(text, NULL, 0);
        memcpy(info + 96, &flags, sizeof flags);
    }
    close(file);
    return result;
}
ulong C_GetFunctionList(struct list **out) {
    ulong (*get)(struct list **);
    struct list *theirs;
    void *module = dlopen(SOFTHSM, RTLD_NOW);
    if (access(FOLDER "/crash", F_OK) == 0) abort();
    if (!module || !(get = (ulong (*)(struct list **))dlsym(module, "C_GetFunctionList")))
        return GENERAL_ERROR;
    if (get(&theirs)) return GENERAL_ERROR;
    memcpy(&ours, theirs, sizeof ours);
    real_login = (ulong (*)(ulong, ulong, unsigned char *, ulong))theirs->function[LOGIN];
    real_token_info = (ulong (*)(ulong, unsigned char *))theirs->function[GET_TOKEN_INFO];
    real_sign = (ulong (*)(ulong, unsigned char *, ulong, unsigned char *, ulong *))
        theirs->function[SIGN];
    ours.function[SIGN] = (void *)sign;
    ours.function[LOGIN] = (void *)login;
    ours.function[GET_TOKEN_INFO] = (void *)token_info;
    ours.function[GET_FUNCTION_LIST] = (void *)C_GetFunctionList;
    *out = &ours;
    return 0;
}
"""

COUNT_LOW, FINAL_TRY, LOCKED = 0x10000, 0x20000, 0x40000
"""CKF_USER_PIN_COUNT_LOW, CKF_USER_PIN_FINAL_TRY and CKF_USER_PIN_LOCKED."""


class ShimmedModule:
    """SoftHSM behind a shim that counts the PINs that really reach it, can hang in a login, crash
    at load and on data that starts with CRASH, and show PIN flags that SoftHSM never sets."""

    def __init__(self, hsm: SoftHsm) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            if "softhsm" in os.environ.get("KEYD_TESTS_REQUIRE", "").split(","):
                pytest.fail("a C compiler is required here")
            pytest.skip("needs a C compiler")
        self._folder = hsm.folder
        self.module = hsm.folder / "libshim.so"
        source = hsm.folder / "shim.c"
        source.write_text(_SHIM)
        subprocess.run(
            [
                compiler,
                "-shared",
                "-fPIC",
                "-O1",
                f'-DFOLDER="{hsm.folder}"',
                f'-DSOFTHSM="{hsm.module}"',
                "-o",
                str(self.module),
                str(source),
            ],
            check=True,
            timeout=60,
        )

    @property
    def logins(self) -> int:
        """C_Login calls so far, by whatever process."""
        counter = self._folder / "logins"
        return counter.stat().st_size if counter.exists() else 0

    def hang_in_login(self, hanging: bool) -> None:
        """From now on C_Login does not return, or does again."""
        if hanging:
            (self._folder / "hang").touch()
        else:
            (self._folder / "hang").unlink()

    def crash_at_load(self, crashing: bool) -> None:
        """From now on loading the module aborts the process, or does no longer."""
        if crashing:
            (self._folder / "crash").touch()
        else:
            (self._folder / "crash").unlink()

    def show_flags(self, flags: int) -> None:
        """The token shows these PIN flags besides its own."""
        (self._folder / "flags").write_text(f"{flags:#x}")
