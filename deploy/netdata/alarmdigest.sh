#!/usr/bin/env bash
# Sends the events of a Netdata agent to `alarmdigest bridge`, and repeats what did not arrive.
#
# Netdata calls custom_sender once per event and forgets it. So each event is written to a folder
# first, and a process in the background sends what is there, the oldest first, until all is taken.
# docs/bridge.md tells how to set it up: health_alarm_notify.conf reads this file, and a timer may
# call it with --flush, for what is left over after a restart of the machine.
#
# Needs bash, curl and flock, which Netdata's own alarm-notify.sh needs, too, or every Linux has.

: "${ALARMDIGEST_URL:=http://127.0.0.1:9596/netdata}"
# A file with the header to log in, for instance "Authorization: Bearer …"; readable by netdata only.
: "${ALARMDIGEST_HEADER_FILE:=}"
: "${ALARMDIGEST_SPOOL:=${NETDATA_LIB_DIR:-/var/lib/netdata}/alarmdigest}"
# So many events are kept at most; the oldest go first.
: "${ALARMDIGEST_SPOOL_MAX:=10000}"
# Seconds between two attempts: the first, and the longest.
: "${ALARMDIGEST_PAUSE:=2}"
: "${ALARMDIGEST_PAUSE_MAX:=60}"
# Whoever reads this file has set some of these as plain variables; the process in the background
# needs them, too.
export ALARMDIGEST_URL ALARMDIGEST_HEADER_FILE ALARMDIGEST_SPOOL ALARMDIGEST_SPOOL_MAX
export ALARMDIGEST_PAUSE ALARMDIGEST_PAUSE_MAX
# So many events go out in one request.
ALARMDIGEST_BATCH=100

alarmdigest_quote() {
    local text="${1//\\/\\\\}"
    text="${text//\"/\\\"}"
    text="${text//[$'\x01'-$'\x1f']/ }"
    printf '"%s"' "${text}"
}

alarmdigest_log() {
    echo "alarmdigest: ${1}" >&2
    command -v logger >/dev/null && logger -t alarmdigest-netdata -- "${1}"
    return 0
}

# What alarm-notify.sh calls, with the recipients of the alarm's roles: each is a user.
custom_sender() {
    local recipients="${1}" field value json
    json="{\"netdata\":1,\"user\":$(alarmdigest_quote "${recipients// /,}")"
    for field in host name chart family status old_status when event_id unique_id alarm_id roles \
        classification component type value_string units info summary goto_url; do
        value="${!field-}"
        [ -n "${value}" ] && json+=",\"${field}\":$(alarmdigest_quote "${value}")"
    done
    json+="}"
    alarmdigest_keep "${json}" || return 1
    # Of its own session, with nothing open: alarm-notify.sh ends, and this goes on.
    setsid bash "${BASH_SOURCE[0]}" --flush </dev/null >/dev/null 2>&1 &
    return 0
}

alarmdigest_keep() {
    local name
    mkdir -p "${ALARMDIGEST_SPOOL}" && chmod 700 "${ALARMDIGEST_SPOOL}" || return 1
    # The time in nanoseconds first, so that names are in the order of events.
    name="${ALARMDIGEST_SPOOL}/$(date +%s%N)-$$-${RANDOM}"
    if ! printf '%s' "${1}" >"${name}.part" || ! mv "${name}.part" "${name}.json"; then
        alarmdigest_log "lost an event: cannot write to ${ALARMDIGEST_SPOOL}"
        return 1
    fi
    alarmdigest_drop_oldest
}

alarmdigest_drop_oldest() {
    local files=("${ALARMDIGEST_SPOOL}"/*.json)
    local over=$((${#files[@]} - ALARMDIGEST_SPOOL_MAX))
    if [ "${over}" -gt 0 ]; then
        rm -f -- "${files[@]:0:over}"
        alarmdigest_log "lost ${over} events: over ${ALARMDIGEST_SPOOL_MAX} wait in ${ALARMDIGEST_SPOOL}"
    fi
}

# Sends all that is there. One process at a time does; another one that finds it at work ends.
alarmdigest_flush() {
    local pause="${ALARMDIGEST_PAUSE}" files
    mkdir -p "${ALARMDIGEST_SPOOL}" || return 1
    exec 9>"${ALARMDIGEST_SPOOL}/lock"
    flock -n 9 || return 0
    shopt -s nullglob
    while files=("${ALARMDIGEST_SPOOL}"/*.json) && [ "${#files[@]}" -gt 0 ]; do
        if alarmdigest_post "${files[@]:0:ALARMDIGEST_BATCH}"; then
            pause="${ALARMDIGEST_PAUSE}"
            continue
        fi
        # Whoever begins meanwhile finds the lock taken, and counts on us.
        sleep "${pause}"
        pause=$((pause * 2 < ALARMDIGEST_PAUSE_MAX ? pause * 2 : ALARMDIGEST_PAUSE_MAX))
    done
    # An event that came between the last look and this is sent by the process it has started.
    flock -u 9
    files=("${ALARMDIGEST_SPOOL}"/*.json)
    [ "${#files[@]}" -eq 0 ] || alarmdigest_flush
}

alarmdigest_post() {
    local code header=()
    [ -n "${ALARMDIGEST_HEADER_FILE}" ] && header=(--header "@${ALARMDIGEST_HEADER_FILE}")
    code="$(
        {
            printf '['
            local file separator=''
            for file in "$@"; do
                printf '%s' "${separator}"
                cat -- "${file}"
                separator=','
            done
            printf ']'
        } | curl --silent --output /dev/null --write-out '%{http_code}' --max-time 30 \
            --header 'Content-Type: application/json' --header 'Expect:' "${header[@]}" \
            --data-binary @- "${ALARMDIGEST_URL}"
    )"
    case "${code}" in
        200)
            # Else they would be sent again and again.
            rm -f -- "$@" || return 1
            ;;
        400 | 413)
            # Perhaps one of them only.
            if [ "$#" -gt 1 ]; then
                local one
                for one in "$@"; do
                    alarmdigest_post "${one}" || return 1
                done
                return 0
            fi
            # Repeated it would be answered so for ever, and hold up all that is behind it.
            mkdir -p "${ALARMDIGEST_SPOOL}/unreadable"
            mv -f -- "$@" "${ALARMDIGEST_SPOOL}/unreadable/" || return 1
            alarmdigest_log "the bridge cannot read an event (${code}): see ${ALARMDIGEST_SPOOL}/unreadable"
            ;;
        *)
            alarmdigest_log "not sent to ${ALARMDIGEST_URL}: ${code}; tried again"
            return 1
            ;;
    esac
}

if [ "${1-}" = "--flush" ] && [ "${BASH_SOURCE[0]}" = "${0}" ]; then
    alarmdigest_flush
fi
