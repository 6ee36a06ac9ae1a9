# shellcheck shell=bash
# Sourced. The way our scripts talk: one line for each step, everything the tools say in a log file, and when a step
# fails the last lines of that log. Results go to file descriptor 3 (the real standard output) through `say`.
# Standard input is closed off: nothing here ever asks.

# Plain sorting, decimal points and tool messages, whatever the user's language.
export LC_ALL=C

# start_log FILE: from here on all output goes to FILE.
start_log() {
    LOG=$1
    mkdir -p "$(dirname "$LOG")"
    exec 3>&1 4>&2 </dev/null >"$LOG" 2>&1
    trap 'finish $?' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

say() { echo "$*" >&3; }

# step WORDS: names what is done next, to the user and in the log.
step() {
    STEP=$*
    say "  $STEP"
    echo "=== $STEP"
}

# fail WORDS: ends the script; `finish` shows the step and the log.
fail() {
    echo "error: $*"
    exit 1
}

# at_exit COMMAND...: runs the command when the script ends, however it ends; the last one given comes first.
AT_EXIT=()
at_exit() { AT_EXIT=("$(printf '%q ' "$@")" "${AT_EXIT[@]}"); }

finish() {
    local status=$1 command
    set +e
    trap '' INT TERM HUP
    for command in "${AT_EXIT[@]}"; do
        eval "$command"
    done
    if [ "$status" -ne 0 ]; then
        {
            echo "failed: ${STEP:-start}; the last lines of $LOG:"
            tail -n 20 "$LOG" | sed 's/^/    /'
        } >&4
    fi
    exit "$status"
}

# json FIELD FILE: the value of the first such field. Enough for flat documents; no JSON tool is on every machine.
json() { grep -o "\"$1\" *: *\(\"[^\"]*\"\|[^,} ]*\)" "$2" | head -n 1 | sed 's/^[^:]*: *//; s/^"//; s/"$//'; }

# Microseconds on a clock that is good enough for seconds.
now_us() { echo "${EPOCHREALTIME/./}"; }

# seconds MICROSECONDS: "1.23 s"
seconds() { printf '%d.%02d s' $(($1 / 1000000)) $(($1 / 10000 % 100)); }

# mebibytes BYTES: "317.4 MiB"
mebibytes() { printf '%d.%d MiB' $(($1 >> 20)) $((($1 & 0xfffff) * 10 >> 20)); }

# serve_at SOCKET COMMAND...: starts a server in the background, waits until its socket is there, leaves its process
# id in SERVER. It dies with this script, even with a killed one.
serve_at() {
    local socket=$1 tries
    shift
    setpriv --pdeathsig TERM "$@" &
    SERVER=$!
    at_exit end_server "$SERVER"
    for ((tries = 0; tries < 200; tries++)); do
        [ ! -S "$socket" ] || return 0
        kill -0 "$SERVER" 2>/dev/null || fail "the server ended before its socket appeared"
        sleep 0.05
    done
    fail "no socket within 10 s: $socket"
}

# serve_fuse FILE COMMAND...: the same for a server that shows the disk as a file: it is there once it has a length.
serve_fuse() {
    local file=$1 tries
    shift
    setpriv --pdeathsig TERM "$@" &
    SERVER=$!
    at_exit end_server "$SERVER"
    for ((tries = 0; tries < 100; tries++)); do
        [ ! -s "$file" ] || return 0
        kill -0 "$SERVER" 2>/dev/null || fail "the server ended before its file had a length"
        sleep 0.05
    done
    fail "no disk within 5 s: $file"
}

# Ends a server without asking how it fares; for the way out. A server that has ended already has no id of ours any
# more: SERVER is emptied then.
end_server() {
    [ "$SERVER" != "$1" ] || kill -TERM "$1" 2>/dev/null
}

# stop_server: SIGTERM, and the server must end well.
stop_server() {
    local pid=$SERVER
    SERVER=
    kill -TERM "$pid"
    wait "$pid" || fail "the server ended with status $? after SIGTERM"
}
