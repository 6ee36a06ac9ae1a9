#!/usr/bin/env bash
# Downloads the packages that the section `fork` installs: bench/packages.sh DIR. Sources, headers, libraries, locale data, fonts
# and manuals, each of which Debian tree 2 can take by itself. What is there already is not fetched again.
set -euo pipefail
export LC_ALL=C
mkdir -p "$1"
cd "$1"
here=$PWD
cd - >/dev/null
# shellcheck source=e2e/private-apt.sh
. "$(dirname "$0")/../e2e/private-apt.sh"
packages=(
    perl-doc vim-runtime python-babel-localedata iso-codes libz3-4 git-doc cmake-data fonts-noto-core libboost1.74-dev
    libicu72
)
missing=()
for package in "${packages[@]}"; do
    compgen -G "$here/${package}_*.deb" >/dev/null || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
private_apt "$here/apt" "$DEBIAN_SUITE" >&2
cd "$here"
apt-get -q "${PRIVATE_APT[@]}" download "${missing[@]}" >&2
