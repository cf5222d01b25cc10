#!/bin/sh
# run.sh ROOT MODULE... -- [pytest arguments]: pytest on the Python binding; exit status 77 (skipped) without pytest or one of the modules.
root=$1
shift
here=${0%/*}
modules=pytest
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    modules="$modules, $1"
    shift
done
[ $# -eq 0 ] || shift
for python in "$root/.venv/bin/python" python3; do
    if "$python" -c "import $modules" 2>/dev/null; then
        cd "$here" && exec "$python" -B -m pytest -q -p no:cacheprovider "$@"
    fi
done
echo "neither $root/.venv/bin/python nor python3 has $modules: skipped"
exit 77
