#!/bin/sh
# make_venv.sh PYTHON VENV: a virtual environment with gwprune and everything it runs with, at the pinned versions.
set -eu
python=$1
venv=$2

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "gwprune needs Python 3.11 or later; $python is $("$python" --version 2>&1). Name another one: make PYTHON=..." >&2
    exit 1
}
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    # Debian and Ubuntu keep ensurepip in a package of its own.
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi
    echo "installing $package" >&2
    $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends "$package" || {
        echo "could not install $package; install it, then run make again" >&2
        exit 1
    }
fi
# An interrupted creation leaves a python without pip.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv"
echo "installing what gwprune needs into $venv: about 6 GB, some minutes, once" >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c envs/constraints.txt -e '.[workflow,test]'
