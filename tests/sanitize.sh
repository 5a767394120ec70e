#!/usr/bin/env bash
# The compiled core under AddressSanitizer and UndefinedBehaviorSanitizer.
#
#     ./tests/sanitize.sh [PYTHON]        (`make sanitize`; needs gcc with its libasan, and pip)
#
# Builds the extensions with ALARMDIGEST_SANITIZE=1 in a temporary copy of the sources and a
# temporary virtual environment, runs the tests that exercise nothing but the extensions, and
# removes both. The working copy and its build are left alone. Ends at the first error that a
# sanitizer reports, with its stack; exit code 0 means that none did and all tests passed.
#
# The interpreter itself is not instrumented, so that the runtime has to be preloaded.
# PYTHONMALLOC=malloc gives every object a block of its own, whose bounds are then watched.
# Leaks are not looked for here: CPython never frees all it has at its end. That nothing leaks is
# shown by tests of their own, which count objects and memory and thus cannot run here.
# pytest captures nothing, since a report would die with the process that it is about.
set -euo pipefail

python=${1:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
compiler=${CC:-gcc}

runtime=$("$compiler" -print-file-name=libasan.so)
if [[ ! -e $runtime ]]; then
    echo "sanitize.sh: $compiler has no libasan.so; install gcc's sanitizer libraries" >&2
    exit 2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/source"
cd "$root"
cp -R alarmdigest ext tests setup.py pyproject.toml README.md LICENSE MANIFEST.in "$work/source"
cd "$work/source"
find . -name '*.so' -delete

"$python" -m venv "$work/venv"
echo "building with $("$compiler" --version | head -n 1)"
# Not optimised much: the stacks then name the lines that they mean.
CC=$compiler CFLAGS="-O1 -fno-omit-frame-pointer ${CFLAGS:-}" ALARMDIGEST_SANITIZE=1 \
    "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[test]'

sanitized=(alarmdigest/_ext/*.so)
for module in "${sanitized[@]}"; do
    if ! nm -D "$module" | grep __asan_ >/dev/null; then
        echo "sanitize.sh: $module was built without the sanitizers" >&2
        exit 1
    fi
done

# Whatever needs no server and uses a compiled module; a name that is not there is an error.
tests=(tests/wire
    tests/state/test_{alarm_ids,alarmbook,alarmbook_rows,core_manners,digest_json}.py
    tests/state/test_{due_blocks,due_users,lookahead,rows}.py
    tests/pipeline/test_{inflight,stored_ids}.py tests/store/test_store{,_faults,_lmdb}.py)

echo "running ${tests[*]}"
LD_PRELOAD=$runtime \
    ASAN_OPTIONS=detect_leaks=0:strict_string_checks=1:detect_stack_use_after_return=1 \
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1 \
    "$work/venv/bin/python" -m pytest -p no:cacheprovider --capture=no --quiet --timeout=1800 \
    -k 'not memory_does_not_grow and not leaves_no_python_object_behind and not malice' "${tests[@]}"
