package roomserver

import (
	"net/netip"
	"strings"

	"github.com/tidwall/gjson"

	"weft/matrix/id"
)

// serverAllowed applies the content of an m.room.server_acl event to a server
// name.
//
// spec: client-server §11.33.1 (m.room.server_acl)
func serverAllowed(acl []byte, server id.Server) bool {
	content := gjson.ParseBytes(acl)
	host, _, isIP := server.HostPort()
	// spec: "allow_ip_literals … Defaults to true if missing or otherwise not a boolean."
	if content.Get("allow_ip_literals").Type == gjson.False && (isIP || isIPLiteral(host)) {
		return false
	}
	if anyGlob(content.Get("deny"), host) {
		return false
	}
	// spec: "This defaults to an empty list when not provided, effectively
	// disallowing every server."
	return anyGlob(content.Get("allow"), host)
}

func isIPLiteral(host string) bool {
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}

func anyGlob(list gjson.Result, host string) bool {
	if !list.IsArray() {
		return false
	}
	found := false
	list.ForEach(func(_, v gjson.Result) bool {
		found = v.Type == gjson.String && globMatch(strings.ToLower(v.Str), strings.ToLower(host))
		return !found
	})
	return found
}

// globMatch matches with * (any characters) and ? (one character). It takes at
// most len(pattern)·len(s) steps, whatever the pattern.
func globMatch(pattern, s string) bool {
	p, i := 0, 0
	star, mark := -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
