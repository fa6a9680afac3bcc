#!/bin/sh
# What must hold beside the tests.
set -eu
GO=${GO:-go}

say() { echo "== $*"; }

say gofmt
files=$(find . -name '*.go' -not -path './data/*' -print0 | xargs -0 "${GO}fmt" -l)
if [ -n "$files" ]; then
	echo "not formatted by gofmt:"
	echo "$files"
	exit 1
fi

say vet
"$GO" vet ./...
for module in $(find test -mindepth 2 -name go.mod); do
	(cd "$(dirname "$module")" && "$GO" vet -tags goolm ./...)
done

say staticcheck
"$GO" tool staticcheck ./...

say generated documents
generated=$(mktemp)
"$GO" run ./cmd/weft config reference > "$generated"
if ! cmp -s "$generated" docs/config.md; then
	diff "$generated" docs/config.md | head -n 20 || true
	rm -f "$generated"
	echo "docs/config.md is out of date: run make docs"
	exit 1
fi
rm -f "$generated"

say import rules
"$GO" test -count=1 ./test/imports

say build
CGO_ENABLED=0 "$GO" build -o /dev/null ./cmd/weft ./test/bench
"$GO" run ./test/platforms ./cmd/weft ./test/bench -- linux/amd64 linux/arm64 darwin/arm64 windows/amd64 freebsd/amd64
say ok
