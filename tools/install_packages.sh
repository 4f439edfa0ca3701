#!/bin/sh
# install_packages.sh LIST...: installs those of the listed Debian packages that are missing; says what it does.
set -eu
missing=
for package in $(cat "$@" | sed 's/#.*//'); do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing="$missing $package"
done
if [ -z "$missing" ]; then
  echo "packages: all there"
  exit 0
fi
[ "$(id -u)" = 0 ] || { echo "packages: missing:$missing; run as root, or: sudo apt-get install$missing" >&2; exit 1; }
echo "packages: installing$missing"
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
