# shellcheck shell=bash
# Sourced. An apt of our own: other sources than the system's, its lists and downloads in a folder of ours, nothing in the
# system's configuration touched. It serves two ends: packages unpacked beside the checkout (the guest's kernel), and
# a newer suite for one package (QEMU, where the system's own suite cannot install it). Needs no root to download.

# The Debian release every guest and every test tree is made of, whatever the host runs.
# shellcheck disable=SC2034 # For those who source this.
DEBIAN_SUITE=bookworm
DEBIAN_KEYS=/usr/share/keyrings/debian-archive-keyring.gpg

# Prints the Debian mirror: $DEBIAN_MIRROR, else the one the system itself uses, else Debian's own.
debian_mirror() {
    local own
    # shellcheck disable=SC2016 # apt expands these, not the shell.
    own=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk '$1 == "Debian" && $2 !~ /security/ && $3 ~ /^http/ { sub("/$", "", $3); print $3; exit }') || true
    echo "${DEBIAN_MIRROR:-${own:-http://deb.debian.org/debian}}"
}

# private_apt FOLDER SUITE...: makes FOLDER an apt folder for these suites, fetches their lists unless they are there,
# and leaves in the array PRIVATE_APT the options that make apt-get and apt-cache use it.
private_apt() {
    local folder=$1 mirror suite
    shift
    mkdir -p "$folder/sources" "$folder/lists/partial" "$folder/cache/archives/partial"
    PRIVATE_APT=(
        -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$folder/sources"
        -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache"
        -o APT::Sandbox::User=root -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    )
    [ ! -e "$folder/fetched" ] || return 0
    mirror=$(debian_mirror)
    for suite; do
        echo "deb [arch=amd64 signed-by=$DEBIAN_KEYS] $mirror $suite main"
    done >"$folder/sources/debian.list"
    apt-get -q "${PRIVATE_APT[@]}" update && touch "$folder/fetched"
}
