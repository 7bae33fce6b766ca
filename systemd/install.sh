#!/bin/sh
# install: keyd's commands into a venv of their own (PREFIX, default /opt/keyd-server), links in
# /usr/local/bin, units, service user and folders. The same command upgrades, and restarts a running
# daemon. uninstall: removes these again and leaves /etc/keyd-server, /var/lib/keyd-server,
# /var/log/keyd-server and the user. With DESTDIR everything goes under that folder and nothing of
# this machine is touched.
set -eu
# The service user has to read what root installs.
umask 022
cd "$(dirname "$0")/.."

PREFIX=${PREFIX:-/opt/keyd-server}
DESTDIR=${DESTDIR:-}
python=${PYTHON:-python3}
units=/usr/lib/systemd
commands="keyd-server keydctl"

if [ -z "$DESTDIR" ] && [ "$(id -u)" != 0 ]; then
    echo "install: this needs root: sudo make $1" >&2
    exit 1
fi
quietly() { # quietly COMMAND...: what it says is shown only if it fails
    "$@" >"$work/log" 2>&1 || {
        code=$?
        cat "$work/log" >&2
        echo "install: failed: $*" >&2
        exit "$code"
    }
}
on_this_machine() { [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; }
put() { # put FILE TARGET
    mkdir -p "$DESTDIR$(dirname "$2")"
    install -m 0644 "systemd/$1" "$DESTDIR$2"
}

case "${1:-}" in
install)
    missing=
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing=" python3-venv"
    [ -n "$DESTDIR" ] || command -v systemd-sysusers >/dev/null || missing="$missing systemd"
    if [ -n "$missing" ]; then
        echo "install: missing:$missing; on Debian: apt-get install$missing" >&2
        exit 1
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "install: keyd needs Python 3.11 or newer; name one: make install PYTHON=python3.12" >&2
        exit 1
    }
    venv=$DESTDIR$PREFIX
    # Built outside the tree, so that root leaves no files of its own in it.
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # A venv whose Python went away (an upgrade of the distribution) is made anew.
    "$venv/bin/python" -c '' 2>/dev/null || quietly "$python" -m venv --clear "$venv"
    pip() { quietly "$venv/bin/python" -m pip "$@"; }
    pip wheel -q --disable-pip-version-check --no-deps -w "$work" .
    wheel=$(echo "$work"/keyd-*.whl)
    pip install -q --disable-pip-version-check "$wheel[server,tuf]"
    pip install -q --disable-pip-version-check --no-deps --force-reinstall "$wheel"
    mkdir -p "$DESTDIR/usr/local/bin"
    for command in $commands; do
        [ -z "$DESTDIR" ] || sed -i "1s|#!$DESTDIR|#!|" "$venv/bin/$command"
        ln -sfn "$PREFIX/bin/$command" "$DESTDIR/usr/local/bin/$command"
    done
    put keyd-server.service $units/system/keyd-server.service
    put keyd-server-user.service $units/user/keyd-server.service
    put keyd-server.sysusers.conf /usr/lib/sysusers.d/keyd-server.conf
    put keyd-server.tmpfiles.conf /usr/lib/tmpfiles.d/keyd-server.conf
    put 50-keyd-server.rules /usr/share/polkit-1/rules.d/50-keyd-server.rules
    if [ -z "$DESTDIR" ]; then
        systemd-sysusers keyd-server.conf
        systemd-tmpfiles --create keyd-server.conf
    fi
    if on_this_machine; then
        systemctl daemon-reload
        systemctl try-restart keyd-server.service
    elif [ -z "$DESTDIR" ]; then
        echo "install: systemd does not run here; docs/operations.md says how to start without it"
    fi
    echo "install: keyd $("$venv/bin/python" -c 'from importlib.metadata import version; print(version("keyd"))') is in $PREFIX"
    [ -e "$DESTDIR/etc/keyd-server/keyd.toml" ] || echo "install: next: keyd-server init"
    ;;
uninstall)
    if on_this_machine; then
        systemctl disable --now keyd-server.service 2>/dev/null || true
    fi
    for command in $commands; do rm -f "$DESTDIR/usr/local/bin/$command"; done
    rm -f "$DESTDIR$units/system/keyd-server.service" "$DESTDIR$units/user/keyd-server.service" \
        "$DESTDIR/usr/lib/sysusers.d/keyd-server.conf" \
        "$DESTDIR/usr/lib/tmpfiles.d/keyd-server.conf" \
        "$DESTDIR/usr/share/polkit-1/rules.d/50-keyd-server.rules"
    # Only a folder that install made as a venv is removed.
    [ ! -e "$DESTDIR$PREFIX/pyvenv.cfg" ] || rm -rf "$DESTDIR${PREFIX:?}"
    on_this_machine && systemctl daemon-reload
    echo "install: removed; /etc/keyd-server, /var/lib/keyd-server, /var/log/keyd-server and the user keyd-server stay"
    ;;
*)
    echo "usage: $0 install|uninstall" >&2
    exit 2
    ;;
esac
