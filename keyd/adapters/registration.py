"""Makes unmodified securesystemslib programs find the ``keyd:`` scheme.

securesystemslib has no entry points: a scheme works once somebody puts its class into
SIGNER_FOR_URI_SCHEME. The wheel's ``keyd_tuf_signer.pth`` runs :func:`install` at interpreter
start, which only places a hook; the class is registered when a program imports
``securesystemslib.signer``. This module runs in every Python process of its environment: it
imports nothing but sys, and it never makes somebody else's import fail.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_WATCHED = "securesystemslib.signer"


def install() -> None:
    """Register the signer now if securesystemslib is imported already, else when it is."""
    if _WATCHED in sys.modules:
        _register()
    elif not any(isinstance(finder, _Hook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Hook())


class _Hook:
    """A meta path finder (PEP 451) that finds nothing itself: it lends the real loader an ear."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _WATCHED:
            return None
        for finder in list(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            if finder is self or find_spec is None:
                continue
            spec: ModuleSpec | None = find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """Runs the real loader, then registers; afterwards the module shows its real loader."""

    def __init__(self, real: object) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._real.create_module(spec)  # type: ignore[attr-defined]
        return created

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._real  # type: ignore[assignment]
        if module.__spec__ is not None:
            module.__spec__.loader = self._real  # type: ignore[assignment]
        self._real.exec_module(module)  # type: ignore[attr-defined]
        _register()


def _register() -> None:
    try:
        from securesystemslib.signer import SIGNER_FOR_URI_SCHEME

        from keyd.adapters.tuf import KeydSigner
    except ImportError as e:
        import logging

        # The program may have no keyd: key at all; it must not fail for a broken installation.
        logging.getLogger(__name__).warning("keyd: URIs will not work: %s", e)
        return
    SIGNER_FOR_URI_SCHEME.setdefault(KeydSigner.SCHEME, KeydSigner)
