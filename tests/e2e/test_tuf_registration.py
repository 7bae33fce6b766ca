"""Programs that know nothing of keyd find the keyd: scheme, as soon as keyd is installed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120
UNMODIFIED_PROGRAM = """
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import Signer, SSlibKey
key = SSlibKey.from_crypto(Ed25519PrivateKey.generate().public_key())
signer = Signer.from_priv_key_uri("keyd:acme/root?repository=acme", key)
print(type(signer).__module__, type(signer).__name__)
"""


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command, bounded; it has to succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done


@dataclass(frozen=True)
class Environment:
    """A virtual environment with keyd's wheel, and the dependencies of the one we run in."""

    python: Path
    site: Path

    @classmethod
    def make(cls, folder: Path, wheel: Path) -> Environment:
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        python = folder / "bin/python"
        (site,) = folder.glob("lib/python3*/site-packages")
        # A path from a .pth file has its own .pth files ignored: keyd comes from the wheel only.
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        made = cls(python, site)
        made.pip("install", "--no-index", "--no-deps", wheel)
        return made

    def pip(self, *arguments: str | Path) -> None:
        """Run our pip for that environment."""
        pip = (sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check")
        run(*pip, *arguments)

    def say(self, program: str, *options: str) -> str:
        """What a program prints; nothing may be on standard error."""
        done = run(self.python, *options, "-c", program, cwd=self.site)
        assert done.stderr == ""
        return done.stdout.strip()


@pytest.fixture(scope="module", params=["build_wheel", "build_editable"])
def environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environment]:
    folder = tmp_path_factory.mktemp("environment")
    build = f"import sys, hatchling.build; print(hatchling.build.{request.param}(sys.argv[1]))"
    name = run(sys.executable, "-c", build, folder, cwd=ROOT).stdout.split()[-1]
    yield Environment.make(folder / "venv", folder / name)


@pytest.mark.parametrize("options", [(), ("-I",)], ids=["plain", "isolated"])
def test_an_unmodified_program_finds_the_signer(
    environment: Environment, options: tuple[str, ...]
) -> None:
    assert environment.say(UNMODIFIED_PROGRAM, *options) == "keyd.adapters.tuf KeydSigner"


def test_the_schemes_that_were_there_stay(environment: Environment) -> None:
    program = "from securesystemslib.signer import SIGNER_FOR_URI_SCHEME as s; print(*sorted(s))"

    assert {"keyd", "file2", "hsm", "awskms"} <= set(environment.say(program, "-I").split())


def test_a_class_somebody_registered_himself_is_not_replaced(environment: Environment) -> None:
    program = """
import securesystemslib.signer as s
s.SIGNER_FOR_URI_SCHEME["keyd"] = "mine"
import keyd.adapters.registration as r
r.install()
print(s.SIGNER_FOR_URI_SCHEME["keyd"])
"""

    assert environment.say(program, "-I") == "mine"


def test_starting_python_imports_neither_securesystemslib_nor_grpc(
    environment: Environment,
) -> None:
    program = "import sys; print(*sorted(m for m in sys.modules if m.partition('.')[0] in " + (
        "('keyd', 'grpc', 'securesystemslib', 'cryptography', 'typing', 'dataclasses')))"
    )

    assert environment.say(program, "-I").split() == [
        "keyd",
        "keyd.adapters",
        "keyd.adapters.registration",
    ]


def test_making_signers_does_not_import_grpc(environment: Environment) -> None:
    program = UNMODIFIED_PROGRAM + "import sys; print('grpc' in sys.modules)"

    assert environment.say(program, "-I").endswith("False")


def test_the_module_keeps_its_real_loader(environment: Environment) -> None:
    program = (
        "import importlib, securesystemslib.signer as s; "
        "print(type(s.__loader__).__name__, type(s.__spec__.loader).__name__); "
        "importlib.reload(s); print('keyd' in s.SIGNER_FOR_URI_SCHEME)"
    )

    assert environment.say(program, "-I").split() == ["SourceFileLoader"] * 2 + ["True"]


def test_a_broken_installation_of_keyd_does_not_break_other_programs(
    environment: Environment,
) -> None:
    program = (
        "import sys; sys.modules['keyd.adapters.tuf'] = None; import logging; "
        "logging.disable(); import securesystemslib.signer as s; "
        "print('file2' in s.SIGNER_FOR_URI_SCHEME, 'keyd' in s.SIGNER_FOR_URI_SCHEME)"
    )

    assert environment.say(program, "-I") == "True False"


def test_uninstalling_takes_the_hook_away(
    environment: Environment,
) -> None:
    """Last in the file: the environment has no keyd afterwards."""
    assert (environment.site / "keyd_tuf_signer.pth").exists()

    environment.pip("uninstall", "-y", "keyd")

    assert not (environment.site / "keyd_tuf_signer.pth").exists()
    program = "import sys; print([m for m in sys.modules if m.startswith('keyd')])"
    assert environment.say(program) == "[]"
