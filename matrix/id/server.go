package id

import (
	"net/netip"
	"strconv"
	"strings"

	"weft/matrix/merr"
)

// Server is a server name: a host name, an IPv4 literal or an IPv6 literal in
// brackets, with an optional port. Names are compared byte by byte: case matters.
//
// spec: appendices §4.2 (Server Name)
type Server string

// ParseServer checks a server name.
func ParseServer(s string) (Server, error) {
	host, port, ok := splitServer(s)
	if !ok || !validHost(host) {
		return "", merr.InvalidParam("%q is no valid server name", shorten(s))
	}
	if port != "" {
		if n, ok := parsePort(port); !ok || n == 0 {
			return "", merr.InvalidParam("the port of the server name %q is not valid", s)
		}
	}
	return Server(s), nil
}

// HostPort takes a server name apart: the host without brackets, the port (0 if
// the name has none), and whether the host is an IP literal.
func (s Server) HostPort() (host string, port int, isIPLiteral bool) {
	h, p, ok := splitServer(string(s))
	if !ok {
		return string(s), 0, false
	}
	if p != "" {
		port, _ = parsePort(p)
	}
	if strings.HasPrefix(h, "[") {
		return h[1 : len(h)-1], port, true
	}
	return h, port, isQuad(h)
}

// splitServer cuts a server name at the colon before its port. ok is false when
// brackets do not match or a colon has no port after it.
func splitServer(s string) (host, port string, ok bool) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", false
		}
		host, s = s[:end+1], s[end+1:]
		if s == "" {
			return host, "", true
		}
		if s[0] != ':' || len(s) == 1 {
			return "", "", false
		}
		return host, s[1:], true
	}
	host, port, found := strings.Cut(s, ":")
	return host, port, host != "" && (!found || port != "")
}

// parsePort reads one to five digits. A port above 65535 fits the grammar but no
// socket, so it is refused.
func parsePort(s string) (int, bool) {
	if len(s) == 0 || len(s) > 5 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n <= 65535
}

func validHost(host string) bool {
	if strings.HasPrefix(host, "[") {
		return validIPv6(host[1 : len(host)-1])
	}
	if len(host) == 0 || len(host) > 255 {
		return false
	}
	for i := range len(host) {
		if !isDNSChar(host[i]) {
			return false
		}
	}
	if isQuad(host) {
		// Four numbers between dots are an IPv4 literal and must be a valid one.
		addr, err := netip.ParseAddr(host)
		return err == nil && addr.Is4()
	}
	return true
}

func validIPv6(s string) bool {
	if len(s) < 2 || len(s) > 45 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' || c == ':' || c == '.') {
			return false
		}
	}
	addr, err := netip.ParseAddr(s)
	return err == nil && addr.Is6()
}

func isDNSChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.'
}

// isQuad reports whether s has the shape of an IPv4 literal: four groups of one
// to three digits.
func isQuad(s string) bool {
	groups, digits := 1, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			if digits++; digits > 3 {
				return false
			}
		case c == '.' && digits > 0:
			groups++
			digits = 0
		default:
			return false
		}
	}
	return groups == 4 && digits > 0
}
