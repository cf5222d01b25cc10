#!/bin/sh
# sanitize.sh [address|thread|all] [BUILD_ROOT]
# Builds the tree with sanitizers and runs the suites that make sense under them. CC chooses the compiler.
#   address   address and undefined behaviour (and leaks): the whole quick suite
#   thread    data races: the pool, thread identity, selectors, contexts
# Exit status 77: the compiler has no such sanitizer.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
what=${1:-all}
root=${2:-$here}
export ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
# oneDNN's OpenMP threads outlive main() and make LeakSanitizer crash: keep it from having any
export OMP_NUM_THREADS=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1

has_sanitizer() {
    echo 'int main(void) { return 0; }' | ${CC:-cc} -xc - -fsanitize="$1" -o /dev/null 2>/dev/null
}

build() { # name, sanitizers
    dir=$root/build-$1
    [ -d "$dir/meson-info" ] || meson setup "$dir" "$here" -Db_sanitize="$2" -Dbuildtype=debugoptimized -Db_lundef=false \
        -Dbench=disabled -Dexamples=disabled >/dev/null
    ninja -C "$dir" >/dev/null || { ninja -C "$dir"; exit 1; }
}

address() {
    has_sanitizer address,undefined || { echo "no address sanitizer"; return 77; }
    build asan address,undefined
    meson test -C "$root/build-asan" --no-rebuild --suite quick --timeout-multiplier 6 --print-errorlogs
}

thread() {
    has_sanitizer thread || { echo "no thread sanitizer"; return 77; }
    build tsan thread
    # The ISA kernels are not instrumented: the scalar ones are.
    export SFFN_MAX_ISA=scalar
    export SFFN_TEST_STRIDE=4 # every fourth case: a run is some thirty times slower here
    # oneDNN and hwloc are not built with it; the tests below do not use the former
    meson test -C "$root/build-tsan" --no-rebuild --timeout-multiplier 10 --print-errorlogs \
        'pool stress' 'property threads' 'property selectors' 'unit context' 'unit ffn' 'unit active_set' 'unit thread_pool'
}

case $what in
address) address ;;
thread) thread ;;
all) address && thread ;;
*) echo "usage: sanitize.sh [address|thread|all] [BUILD_ROOT]"; exit 2 ;;
esac
