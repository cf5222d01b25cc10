#!/bin/sh
# qemu.sh BUILD_DIR
# Old CPUs under qemu-user: the right kernel table is chosen, and no kernel or test meets an illegal instruction.
#   Nehalem   SSE4.2, no AVX: scalar kernels only
#   Haswell   AVX2, FMA, F16C: AVX2 kernels, no AVX-512
# Exit status 77 (skipped) without qemu-x86_64.
set -u
build=$1
qemu=$(command -v qemu-x86_64 || command -v qemu-x86_64-static) || { echo "no qemu-x86_64: skipped"; exit 77; }
[ "$(uname -m)" = x86_64 ] || { echo "these tests are for x86-64 hosts: skipped"; exit 77; }
export LD_LIBRARY_PATH=$build/lib
export SFFN_TEST_EMULATED=1 # see support/guarded.h
failed=0
complain() { echo "FAILED: $*"; failed=1; }
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT

run() { # cpu, words, command...
    cpu=$1 words=$2
    shift 2
    if "$qemu" -cpu "$cpu" "$@" >"$tmp/log" 2>&1; then
        echo "$cpu: $words: $(tail -1 "$tmp/log")"
    else
        complain "$cpu: $words: exit status $?"
        grep -v -e '^\[ *\(RUN\|OK\) *\]' -e "TCG doesn't support" "$tmp/log" | tail -20
    fi
}

for pair in Nehalem:scalar Haswell:avx2; do
    cpu=${pair%:*} isa=${pair#*:}
    "$qemu" -cpu "$cpu" "$build/tests/kernel_table" >"$tmp/table" 2>"$tmp/log" || { complain "$cpu: no kernel table"; cat "$tmp/log"; continue; }
    [ "$(sed -n 's/^isa //p' "$tmp/table")" = "$isa" ] || complain "$cpu chose $(head -1 "$tmp/table"), expected $isa"
    kernels=$(sed 1,2d "$tmp/table")
    echo "$cpu: $(echo "$kernels" | wc -l) kernels, $(echo "$kernels" | grep -c "_$isa\$") of them $isa"
    # nothing stronger than the CPU; and on Haswell the products that matter are AVX2's
    case $isa in
    scalar) echo "$kernels" | grep -v '_scalar$' && complain "$cpu has kernels that are not scalar" ;;
    avx2)
        echo "$kernels" | grep -v -e '_scalar$' -e '_avx2$' && complain "$cpu has kernels beyond AVX2"
        for type in f32 f16 bf16 q8_0 q4_0; do
            echo "$kernels" | grep -qx "rows_dot_${type}_avx2" || complain "$cpu: rows_dot_$type is not AVX2's"
        done ;;
    esac
    checkkernel=$build/tests/checkkernel/checkkernel
    if [ -x "$checkkernel" ]; then run "$cpu" checkkernel "$checkkernel"; else echo "$cpu: no checkkernel: skipped"; fi
    # emulation is 20 to 50 times slower: a part of the random layers
    SFFN_TEST_STRIDE=29 run "$cpu" "random layers" "$build/tests/property/test_forward_random"
    SFFN_TEST_STRIDE=3 run "$cpu" "random matrices" "$build/tests/property/test_matmul_random"
    SFFN_TEST_STRIDE=2 run "$cpu" invariants "$build/tests/property/test_invariants"
    SFFN_TEST_STRIDE=2 run "$cpu" selectors "$build/tests/property/test_selectors"
    SFFN_TEST_STRIDE=8 run "$cpu" threads "$build/tests/property/test_threads"
    run "$cpu" toys "$build/tests/unit/test_toys"
    run "$cpu" contexts "$build/tests/unit/test_context"
done
exit $failed
