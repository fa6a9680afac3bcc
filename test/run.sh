#!/bin/sh
# Runs all tests of all modules of the repository, then prints counts.
# RACE=1 adds the race detector. The output of go test is shown as it comes.
set -u
GO=${GO:-go}
# goolm is the client library of test/integration without C.
flags="-count=1 -timeout 18m -tags goolm"
[ -n "${RACE:-}" ] && flags="$flags -race"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0

run() { # folder
	echo "== go test $flags ./... ($1)"
	# The counts need -v; what passes is not shown.
	# shellcheck disable=SC2086
	(cd "$1" && "$GO" test $flags -v ./... 2>&1; echo "exit $?") | tee -a "$log" |
		grep -v -E '^(=== |\s*--- PASS|PASS$|exit |testing: warning)|no test files'
	[ "$(tail -n 1 "$log")" = "exit 0" ] || status=1
}

run .
for module in $(find test -mindepth 2 -name go.mod); do
	run "$(dirname "$module")"
done

passed=$(grep -c -E '^ *--- PASS' "$log")
failed=$(grep -c -E '^ *--- FAIL' "$log")
skipped=$(grep -c -E '^ *--- SKIP' "$log")
packages=$(grep -c -E '^ok ' "$log")
[ "$skipped" -gt 0 ] && echo "== skipped" && grep -A 1 -E '^ *--- SKIP' "$log" | grep -v '^--$' | head -n 60
echo "== $packages packages ok; tests and subtests: $passed passed, $failed failed, $skipped skipped"
exit $status
