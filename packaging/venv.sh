#!/usr/bin/env bash
# Makes a virtual environment with pip in it: packaging/venv.sh FOLDER
# Takes $PYTHON, or the first Python of 3.11 or newer that is found. What is missing is said with
# the command that installs it; as root on Debian that command is run.
set -euo pipefail
folder=$1

new_enough='import sys; sys.exit(sys.version_info < (3, 11))'
if [ -z "${PYTHON:-}" ]; then
  for candidate in python3 python3.11 python3.12 python3.13 python3.14; do
    if command -v "$candidate" >/dev/null && "$candidate" -c "$new_enough" 2>/dev/null; then
      PYTHON=$candidate
      break
    fi
  done
fi
if [ -z "${PYTHON:-}" ]; then
  echo "make: no Python of version 3.11 or newer was found. Install one (Debian 12: apt install python3 python3-venv), or name it: make PYTHON=/path/to/python3 …" >&2
  exit 1
fi

[ -x "$folder/bin/pip" ] && exit 0
rm -rf "$folder"
has_venv() { "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; }
if ! has_venv && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "make: this Python has no venv module; installing Debian's python3-venv" >&2
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; } >&2 || true
fi
if has_venv; then
  "$PYTHON" -m venv "$folder"
elif command -v virtualenv >/dev/null; then
  virtualenv --quiet --python "$PYTHON" "$folder"
else
  echo "make: $PYTHON has no venv module and there is no virtualenv. Install one: sudo apt install python3-venv" >&2
  exit 1
fi
