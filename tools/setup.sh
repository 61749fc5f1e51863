#!/bin/sh
# Installs what a bare Debian lacks (where it may), makes a virtual environment and installs ondevice into it.
set -eu
venv=$1
python=${PYTHON:-python3}

debian() { # debian PACKAGE... : install, as root or through sudo; otherwise say what is missing and go on
    missing=""
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
    done
    [ -z "$missing" ] && return 0
    if [ "$(id -u)" = 0 ]; then run=""; elif sudo -n true 2>/dev/null; then run="sudo"; else
        echo "ondevice: not root, so these Debian packages are not installed:$missing" >&2
        return 0
    fi
    $run env DEBIAN_FRONTEND=noninteractive apt-get update -qq || true
    # shellcheck disable=SC2086
    $run env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing ||
        echo "ondevice: could not install:$missing" >&2
}

if command -v dpkg-query >/dev/null; then
    # A Python of its own (pyenv, conda) brings venv and headers; Debian's needs its packages.
    "$python" -c 'import ensurepip, venv' 2>/dev/null || debian python3 python3-venv
    header='import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
    "$python" -c "$header" || debian python3-dev
    command -v c++ >/dev/null || debian g++
    # For the tests: an emulator and compiler for NEON, a browser and a JavaScript engine for the exported page.
    debian qemu-user g++-aarch64-linux-gnu chromium
    # Speaks the sets of spoken data.
    debian libespeak-ng1 espeak-ng-data
    command -v node >/dev/null || debian nodejs
    command -v npm >/dev/null || debian npm
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"
$pip install --upgrade "pip>=24"
# The CPU build of torch first, alone, so that nothing below pulls in another.
torch=$(sed -n 's/^fit = .*"torch==\([0-9.]*\)".*/\1/p' pyproject.toml)
case "$(uname -s)" in
Linux) $pip install "torch==$torch" || $pip install "torch==$torch" --index-url https://download.pytorch.org/whl/cpu ;;
*) $pip install "torch==$torch" ;;
esac
$pip install "scikit-build-core>=1.1" "nanobind>=2.9"
$pip install --no-build-isolation --editable '.[dev,all]'
# What the exported page runs on, for its test in a browser.
if command -v npm >/dev/null; then
    [ -d node_modules/onnxruntime-web ] || npm install --silent --no-save --no-audit --no-fund onnxruntime-web@1.30.0 ||
        echo "ondevice: npm could not install onnxruntime-web; the page's test will be skipped" >&2
fi
