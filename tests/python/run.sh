#!/bin/sh
# run.sh ROOT [pytest arguments]: pytest on the Python binding; exit status 77 (skipped) without numpy and pytest.
root=$1
shift
here=${0%/*}
for python in "$root/.venv/bin/python" python3; do
    if "$python" -c 'import numpy, pytest' 2>/dev/null; then
        exec "$python" -B -m pytest -q -p no:cacheprovider "$here" "$@"
    fi
done
echo "neither $root/.venv/bin/python nor python3 has numpy and pytest: skipped"
exit 77
