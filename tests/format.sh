#!/bin/sh
# format.sh  C files look as .clang-format says. Version 14 decides, since versions differ: Debian's clang-format-14, or PyPI's clang-format==14.0.6.
set -eu
cd "$(dirname "$0")/.."
is_14() { "$1" --version 2>/dev/null | grep -q 'version 14\.'; }
for program in .venv/bin/clang-format clang-format-14 clang-format; do
    is_14 "$program" && break
done
is_14 "$program" || { echo "no clang-format 14: skipped"; exit 77; }
git ls-files -z >/dev/null 2>&1 || { echo "no git checkout: skipped"; exit 77; }
git ls-files -z '*.c' '*.h' '*.hpp' '*.cpp' | xargs -0 "$program" --dry-run --Werror
