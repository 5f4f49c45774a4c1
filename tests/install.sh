#!/usr/bin/env bash
# Installs the programs that some tests compare with or look through, where that can be done
# without asking: as root on a system with apt. Tests whose program is missing are skipped and say so.
set -uo pipefail

wanted=()
need() { command -v "$1" >/dev/null || wanted+=("$2"); }
need cc build-essential
need curl curl
need chromium chromium
need nginx nginx-light
need wrk wrk
need h2load nghttp2-client
need valgrind valgrind

if [ ${#wanted[@]} = 0 ]; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "tests/install.sh: not installed, and not root with apt: ${wanted[*]}" >&2
  exit 0
fi
echo "tests/install.sh: installing ${wanted[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null
for package in "${wanted[@]}"; do
  apt-get install -y -qq --no-install-recommends "$package" >/dev/null || echo "tests/install.sh: $package could not be installed" >&2
done
exit 0
