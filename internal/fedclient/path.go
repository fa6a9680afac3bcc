package fedclient

import (
	"net/url"
	"strings"
)

const (
	federationV1 = "/_matrix/federation/v1"
	federationV2 = "/_matrix/federation/v2"
)

// path joins a prefix and segments, which it escapes, and appends a query.
func path(prefix string, query url.Values, segments ...string) string {
	var b strings.Builder
	b.WriteString(prefix)
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(escapeSegment(s))
	}
	if len(query) > 0 {
		b.WriteByte('?')
		b.WriteString(query.Encode())
	}
	return b.String()
}

// escapeSegment is url.PathEscape, made safe for segments that would vanish:
// "." and ".." would be taken for steps in the tree.
func escapeSegment(s string) string {
	switch s {
	case ".":
		return "%2E"
	case "..":
		return "%2E%2E"
	}
	return url.PathEscape(s)
}
