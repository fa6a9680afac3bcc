#!/bin/sh
# Runs every fuzz target of the repository for FUZZTIME.
set -u
GO=${GO:-go}
FUZZTIME=${FUZZTIME:-30s}
status=0
count=0
for file in $(grep -l -r --include='*_test.go' '^func Fuzz' . | sort); do
	dir=$(dirname "$file")
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		count=$((count + 1))
		echo "== $dir $target"
		(cd "$dir" && "$GO" test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" .) || status=1
	done
done
echo "== $count fuzz targets, $FUZZTIME each"
exit $status
