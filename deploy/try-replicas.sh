#!/usr/bin/env bash
# Three NATS servers and three replicas on this machine, to end some of them and see what happens.
#
#   deploy/try-replicas.sh up              start all: servers n1 n2 n3, replicas a b c
#   deploy/try-replicas.sh kill NAME...    kill -9, as when a machine is gone
#   deploy/try-replicas.sh stop NAME...    SIGTERM, an orderly stop
#   deploy/try-replicas.sh wipe NAME...    remove its folder, once it has ended
#   deploy/try-replicas.sh start NAME...   start it (again)
#   deploy/try-replicas.sh down            end all, and remove all folders
#
# Needs `make build`. Everything lies in the folder try-replicas, or in TRY_REPLICAS; logs are
# NAME.log there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=$PWD/.venv/bin
place=${TRY_REPLICAS:-try-replicas}
port=${TRY_REPLICAS_PORT:-4231}
url=nats://127.0.0.1

routes=$url:$((port + 11)),$url:$((port + 12)),$url:$((port + 13))
servers=(--server "$url:$port" --server "$url:$((port + 1))" --server "$url:$((port + 2))")

# Of the page, `status` and /metrics of a replica.
http_port() { echo $((port + 20 + $(printf '%d' "'$1") - 96)); }

is_running() { [ -f "$place/$1.pid" ] && kill -0 "$(cat "$place/$1.pid")" 2>/dev/null; }

start() {
    known "$1"
    if is_running "$1"; then
        echo "$1 runs already" >&2
        return
    fi
    case $1 in
        n[123])
            local number=${1#n}
            "$bin/nats-server" --name "$1" --addr 127.0.0.1 --port $((port + number - 1)) \
                --jetstream --store_dir "$place/$1" --cluster_name try \
                --cluster "$url:$((port + 10 + number))" --routes "$routes" \
                >>"$place/$1.log" 2>&1 &
            ;;
        [abc])
            "$bin/alarmdigest" run --group mail --replica-name "$1" --stream-replicas 3 \
                --data-dir "$place/$1" --http "127.0.0.1:$(http_port "$1")" "${servers[@]}" \
                >>"$place/$1.log" 2>&1 &
            ;;
    esac
    echo $! >"$place/$1.pid"
    echo "$1 runs: pid $!, log $place/$1.log"
}

end() {  # signal, name
    known "$2"
    if ! is_running "$2"; then
        echo "$2 does not run" >&2
        return
    fi
    kill "-$1" "$(cat "$place/$2.pid")"
}

gone() {  # name
    while is_running "$1"; do sleep 0.1; done
    rm -f "$place/$1.pid"
}

known() {  # name
    case $1 in
        n[123] | [abc]) ;;
        *) echo "$1: there are the servers n1 n2 n3 and the replicas a b c" >&2; exit 2 ;;
    esac
}

wait_for_leader() {
    for _ in $(seq 100); do
        found=$("$bin/alarmdigest" members --group mail --json "${servers[@]}" 2>&1) || true
        if grep -q '"leader": *"[abc]"' <<<"$found"; then return; fi
        sleep 0.2
    done
    echo "nobody leads yet: see $place/a.log; the last answer: $found" >&2
    exit 1
}

wipe() {
    known "$1"
    if is_running "$1"; then
        echo "$1 runs: kill or stop it first" >&2
        exit 1
    fi
    rm -rf "${place:?}/$1"
}

action=${1:-up}
shift || true
mkdir -p "$place"
case $action in
    up) for name in n1 n2 n3 a b c; do start "$name"; done
        wait_for_leader
        echo "who leads: .venv/bin/alarmdigest members ${servers[*]}"
        for name in a b c; do echo "the page of $name: http://127.0.0.1:$(http_port "$name")/"; done ;;
    start | wipe) for name; do "$action" "$name"; done ;;
    kill) for name; do end KILL "$name"; done; for name; do gone "$name"; done ;;
    stop) for name; do end TERM "$name"; done; for name; do gone "$name"; done ;;
    down) all=(a b c n1 n2 n3)
        for name in "${all[@]}"; do is_running "$name" && end KILL "$name"; done
        for name in "${all[@]}"; do gone "$name"; done
        rm -rf "$place" ;;
    *) sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | grep '^#' >&2; exit 2 ;;
esac
