#!/bin/sh
# symbols.sh LIB.so LIB.a INCLUDE_DIR SYMBOLS.txt
# What the library gives to and takes from a process: exports equal the checked-in list and the headers, nothing else is global, no
# library is needed that we promise not to bring, and nothing that prints or ends the process is called.
set -u
so=$1 archive=$2 include=$3 list=$4
failed=0
complain() { echo "$1"; failed=1; }
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT

grep -hE '^SFFN_API ' "$include"/sparseffn/*.h | grep -oE '\bsffn_[a-z0-9_]+\(' | grep -oE '^sffn_[a-z0-9_]+' | sort -u >"$tmp/headers"
nm -D --defined-only "$so" | awk '$2 != "A" { print $3 }' | sed 's/@.*//' | sort -u >"$tmp/exports"
diff "$list" "$tmp/headers" || complain "symbols.txt (<) and the SFFN_API functions of the headers (>) differ"
diff "$list" "$tmp/exports" || complain "symbols.txt (<) and the exports of $so (>) differ"
[ -s "$tmp/exports" ] || complain "no exports at all"
grep -v '^sffn_' "$tmp/exports" && complain "exports without our prefix"
# the static library's globals meet those of the program: all of them carry the prefix
nm -g --defined-only "$archive" 2>/dev/null | awk 'NF == 3 { print $3 }' | sed 's/^__\(asan\|odr_asan\|ubsan\|tsan\).*//' |
    grep -v -e '^sffn_' -e '^$' && complain "globals of the static library without our prefix"
readelf -d "$so" | grep -q 'SONAME.*libsparseffn\.so\.[0-9]' || complain "no SONAME with the ABI's major"
for library in libgomp libiomp libomp libstdc++ libgcc_s libdnnl libtbb; do
    readelf -d "$so" | grep NEEDED | grep -F "$library" && complain "the library needs $library"
done
# a sanitized build has imports of its own
if ! nm -D --undefined-only "$so" | grep -qE '__(asan|ubsan|tsan)_'; then
    nm -D --undefined-only "$so" | awk '{ print $2 }' | sed 's/@.*//' | grep -xE \
        '(f|v|vf|d)?printf|__(f|v|vf|d)?printf_chk|puts|fputs|putchar|fputc|putc|perror|abort|_?_?exit|quick_exit|stdout|stderr|setenv|putenv|signal|sigaction|strtok|rand|srand' &&
        complain "imports of functions that print, end the process or have global state"
fi
[ $failed -eq 0 ] && echo "$(wc -l <"$list") exported symbols, all as listed"
exit $failed
