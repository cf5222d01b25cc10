#!/bin/sh
# headers.sh INCLUDE_DIR [COMPILER...]
# Each public header alone, in every language version that we promise, without a warning; and the INIT macros of all of them. The C++ one as C++17
# and C++20, with and without exceptions.
include=$1
shift
[ $# -gt 0 ] || set -- gcc clang
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
failed=0 n=0
check() { # compiler standard language source [flags]
    n=$((n + 1))
    "$1" -x "$3" -std="$2" -Wall -Wextra -Wpedantic -Werror $5 -I"$include" -fsyntax-only "$4" || { echo "$1 $2: $4"; failed=1; }
}
for header in "$include"/sparseffn/*.h; do
    echo "#include \"sparseffn/$(basename "$header")\"" >"$tmp/$(basename "$header" .h).c"
done
{
    echo '#include "sparseffn/sparseffn.h"'
    cat "$include"/sparseffn/*.h | sed -n 's/^#define SFFN_\([A-Z_]*\)_INIT.*/\1/p' | sort -u | while read -r name; do
        type=sffn_$(echo "$name" | tr A-Z a-z)
        echo "extern $type make_$type(void); $type make_$type(void) { $type value = SFFN_${name}_INIT; return value; }"
    done
} >"$tmp/init.c"
echo '#include "sparseffn/sparseffn.hpp"' >"$tmp/hpp.cpp"
[ "$(grep -c _INIT "$tmp/init.c")" -ge 15 ] || { echo "init macros not found"; exit 1; }
for compiler in "$@"; do
    command -v "$compiler" >/dev/null || { echo "no $compiler: skipped"; continue; }
    for source in "$tmp"/*.c; do
        for standard in c99 c11; do check "$compiler" $standard c "$source"; done
        for standard in c++98 c++17; do check "$compiler" $standard c++ "$source"; done
    done
    for standard in c++17 c++20; do
        for flags in -Wshadow "-fno-exceptions -fno-rtti -Wconversion"; do
            check "$compiler" $standard c++ "$tmp/hpp.cpp" "$flags"
        done
    done
done
# The C++ header keeps up with the C API; bytes of selectors are in their info there.
for name in $(cat "$include"/sparseffn/*.h | grep -oE '\bsffn_(context|active_set|matmul|predictor|router|ffn|model)_[a-z_]+\(' | tr -d '(' | sort -u); do
    case $name in *_weight_bytes) continue ;; esac
    grep -q "\b$name\b" "$include/sparseffn/sparseffn.hpp" || { echo "sparseffn.hpp: no $name"; failed=1; }
done
[ $n -gt 0 ] || { echo "no compiler"; exit 77; }
echo "$n compilations"
exit $failed
