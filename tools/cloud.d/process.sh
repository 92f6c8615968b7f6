# Processes by pid and start time, bounded waits, and the run of `up` where each part is one background
# track. Sourced by tools/cloud.
# shellcheck shell=bash

# start_time PID prints the kernel's start time of a process; nothing when it is gone or a zombie.
# A pid alone may belong to somebody else by now; the pair cannot.
start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    # The name may hold blanks and brackets: fields count from after its closing bracket.
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    [[ $1 == Z ]] || echo "${20}"
}

# pid_of NAME prints the pid of a running process; status 1 when it does not run.
pid_of() {
    local pid started
    [[ -s $RUN/$1.pid ]] || return 1
    read -r pid started <"$RUN/$1.pid"
    [[ $started && $(start_time "$pid") == "$started" ]] || return 1
    echo "$pid"
}

# spawn NAME COMMAND… starts a daemon in its own session, its output in the log NAME.
spawn() {
    local name=$1 pid
    shift
    end_orphans "$name"
    echo "--- $(date -Is) start" >>"$LOGS/$name.log"
    (
        # Descriptors of the caller (locks above all) must not live on in a daemon.
        for fd in /proc/self/fd/*; do
            fd=${fd##*/}
            ((fd > 2)) && eval "exec $fd>&-"
        done
        exec setsid "$@"
    ) </dev/null >>"$LOGS/$name.log" 2>&1 &
    pid=$!
    echo "$pid $(start_time "$pid")" >"$RUN/$name.pid"
}

# end_orphans NAME ends the children of a daemon that died without them: they would keep its port. A member
# of the dead leader's group is believed to be one when its error output is the daemon's log.
end_orphans() {
    local leader pid
    [[ -s $RUN/$1.pid ]] && ! running "$1" || return 0
    read -r leader _ <"$RUN/$1.pid"
    for pid in $(pgrep -g "$leader" || true); do
        if [[ $(readlink "/proc/$pid/fd/2") == "$LOGS/$1.log" ]]; then
            kill -KILL "$pid" 2>/dev/null || true
        fi
    done
}

# running NAME tells whether the daemon runs.
running() {
    pid_of "$1" >/dev/null
}

# stop NAME [SECONDS] ends a daemon and its process group: TERM, then KILL.
stop() {
    local pid i limit=${2:-10}
    if pid=$(pid_of "$1"); then
        kill -TERM "$pid" 2>/dev/null || true
        for ((i = 0; i < limit * 20; i++)); do
            running "$1" || break
            sleep 0.05
        done
        # spawn made the daemon the leader of its group: this also ends its children.
        kill -KILL -- "-$pid" 2>/dev/null || true
    else
        end_orphans "$1"
    fi
    rm -f "$RUN/$1.pid"
}

# quietly LOG SECONDS COMMAND… runs a bounded command with its output in a log; a failure shows the
# end of it.
quietly() {
    local name=$1 limit=$2
    shift 2
    timeout "$limit" "$@" >>"$LOGS/$name.log" 2>&1 </dev/null || fail "$name" "$1 failed or took over $limit s"
}

# await NAME SECONDS PROBE… waits until PROBE succeeds; fails as soon as the daemon NAME has ended.
await() {
    local name=$1 limit=$2 begin=$SECONDS
    shift 2
    until "$@" >/dev/null 2>&1; do
        running "$name" || fail "$name" "ended by itself"
        ((SECONDS - begin < limit)) || fail "$name" "did not answer within $limit s"
        sleep 0.2
    done
    say "$name answers"
}

say() {
    printf '%4d s  %s\n' "$SECONDS" "$*"
}

# fail NAME REASON shows the end of the log and ends this track.
fail() {
    {
        echo "tools/cloud: $1: $2; the end of $LOGS/$1.log:"
        tail -n 25 "$LOGS/$1.log" 2>/dev/null | cut -c1-400 | sed 's/^/    /'
    } >&2
    touch "$MARKS/failed"
    exit 1
}

# --- one run of up ---------------------------------------------------------------------------------

begin_run() {
    MARKS=$RUN/up
    rm -rf "$MARKS"
    mkdir -p "$MARKS"
}

end_run() {
    rm -rf "$MARKS"
}

done_with() {
    touch "$MARKS/$1.done"
}

# give_up PART makes the other tracks end at their next wait.
give_up() {
    echo "tools/cloud: $1 did not come up" >&2
    touch "$MARKS/failed"
}

# after MARK… waits for steps of other tracks; ends the track quietly when one of them failed.
after() {
    local mark begin=$SECONDS
    for mark in "$@"; do
        until [[ -e $MARKS/$mark.done ]]; do
            [[ ! -e $MARKS/failed ]] || exit 1
            ((SECONDS - begin < 300)) || { echo "tools/cloud: waited 300 s for $mark" >&2; exit 1; }
            sleep 0.1
        done
    done
}

# once STEP: status 0 when the step was not done before in this state; mark it with did STEP.
once() {
    [[ ! -e $DONE/$1 ]]
}

did() {
    touch "$DONE/$1"
}
