#!/bin/sh
# aarch64.sh
# The library for AArch64, cross-compiled and run by qemu-user: each CPU gets its kernels, and every kernel agrees with scalar.
#   cortex-a53   NEON alone        cortex-a76   with the dot product
# Exit status 77 (skipped) without the cross compiler or qemu-aarch64.
set -u
cd "$(dirname "$0")/.." || exit 1
command -v aarch64-linux-gnu-gcc >/dev/null || { echo "no aarch64-linux-gnu-gcc: skipped"; exit 77; }
qemu=$(command -v qemu-aarch64 || command -v qemu-aarch64-static) || { echo "no qemu-aarch64: skipped"; exit 77; }
export SFFN_TEST_EMULATED=1 # see support/guarded.h
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
failed=0
complain() { echo "FAILED: $*"; failed=1; }
build() {
    if ! "$@" >"$tmp/log" 2>&1; then
        tail -20 "$tmp/log"
        echo "FAILED: $1 $2"
        exit 1
    fi
}

# plain: no optimisation but for the kernels, whose own flags say -O3
build meson setup "$tmp/build" --cross-file tests/support/aarch64.ini --buildtype plain -Dwerror=true -Dhwloc=disabled -Donednn=disabled \
    -Dcli=disabled -Dbench=disabled -Dexamples=disabled -Dtests=disabled
build ninja -C "$tmp/build"
# -O1: gcc 12's vectoriser fails on checkkernel's own loops for AArch64 (internal compiler error)
# shellcheck disable=SC2046  # words on purpose
build aarch64-linux-gnu-gcc -std=gnu11 -O1 -Iinclude -Ilib -I"$tmp/build/lib" -I"$tmp/build" -o "$tmp/checkkernel" tests/checkkernel/*.c \
    $(find "$tmp/build/lib" -name '*.o') -lm -ldl -lpthread
build aarch64-linux-gnu-gcc -std=gnu11 -O1 -Iinclude -o "$tmp/kernel_table" tests/support/kernel_table.c -L"$tmp/build/lib" -lsparseffn
run() { "$qemu" -cpu "$1" -L /usr/aarch64-linux-gnu -E "LD_LIBRARY_PATH=$tmp/build/lib" "$2" ${3:+"$3"} ${4:+"$4"}; }

for pair in cortex-a53:neon cortex-a76:dotprod; do
    cpu=${pair%:*} isa=${pair#*:}
    run "$cpu" "$tmp/kernel_table" >"$tmp/table" 2>"$tmp/log" || complain "$cpu: no kernel table: $(cat "$tmp/log")"
    [ "$(sed -n 's/^isa //p' "$tmp/table")" = "$isa" ] || complain "$cpu chose $(head -1 "$tmp/table"), expected $isa"
    for type in f32 f16 bf16 q8_0 q4_0; do
        grep -qE "^rows_dot_${type}_(neon|dotprod)$" "$tmp/table" || complain "$cpu: rows_dot_$type is not vectorised"
    done
    if run "$cpu" "$tmp/checkkernel" --isa "$isa" >"$tmp/log" 2>&1; then
        echo "$cpu: $isa: $(tail -1 "$tmp/log")"
    else
        complain "$cpu: checkkernel --isa $isa"
        grep -v '^ok' "$tmp/log" | tail -20
    fi
done
exit $failed
