#!/bin/sh
# Runs all tests of all modules of the repository, then prints counts.
# RACE=1 adds the race detector. The output of go test is shown as it comes.
set -u
GO=${GO:-go}
# goolm is the client library of test/integration without C.
flags="-count=1 -timeout 18m -tags goolm"
race=
[ -n "${RACE:-}" ] && race=-race
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0

run() { # folder, packages, further flags
	folder=$1 packages=$2
	shift 2
	echo "== go test $flags $* ($folder)"
	# The counts need -v; what passes is not shown.
	# shellcheck disable=SC2086
	(cd "$folder" && "$GO" test $flags "$@" -v $packages 2>&1; echo "exit $?") | tee -a "$log" |
		grep -v -E '^(=== |\s*--- PASS|PASS$|exit |testing: warning)|no test files'
	[ "$(tail -n 1 "$log")" = "exit 0" ] || status=1
}

# What drives real processes has nothing for the detector to see, nor has the protocol core, which
# computes one thing after the other (test/imports).
if [ -n "$race" ]; then
	before=${CGO_ENABLED:-0}
	export CGO_ENABLED=1
	run . "$("$GO" list ./... | grep -v -E '/(test|matrix)/')" -race
	export CGO_ENABLED="$before"
	run . "./matrix/... ./test/..."
else
	run . ./...
fi
# The differential suite would make too few graphs with the detector, and the
# integration tests build the server with it.
for module in $(find test -mindepth 2 -name go.mod); do
	run "$(dirname "$module")" ./...
done

passed=$(grep -c -E '^ *--- PASS' "$log")
failed=$(grep -c -E '^ *--- FAIL' "$log")
skipped=$(grep -c -E '^ *--- SKIP' "$log")
packages=$(grep -c -E '^ok ' "$log")
[ "$skipped" -gt 0 ] && echo "== skipped" && grep -B 1 -E '^ *--- SKIP' "$log" | grep -v '^--$' | head -n 60
echo "== $packages packages ok; tests and subtests: $passed passed, $failed failed, $skipped skipped"
exit $status
