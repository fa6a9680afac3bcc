package id

import (
	"errors"
	"strings"
	"testing"

	"weft/matrix/merr"
)

func TestParseUser(t *testing.T) {
	tests := []struct {
		in, localpart string
		server        Server
		ok, compliant bool
	}{
		{"@alice:example.org", "alice", "example.org", true, true},
		{"@alice:example.org:8448", "alice", "example.org:8448", true, true},
		{"@a:[::1]:80", "a", "[::1]:80", true, true},
		{"@a:1.2.3.4", "a", "1.2.3.4", true, true},
		{"@Alice!*:example.org", "Alice!*", "example.org", true, true},
		{"@:example.org", "", "example.org", true, false},
		{"@a b:example.org", "a b", "example.org", true, false},
		{"@a\nb:example.org", "a\nb", "example.org", true, false},
		{"@日本:example.org", "日本", "example.org", true, false},
		{"@\u007f:example.org", "\u007f", "example.org", true, false},
		{"", "", "", false, false},
		{"alice:example.org", "", "", false, false},
		{"@alice", "", "", false, false},
		{"@alice:", "", "", false, false},
		{"@alice:exam ple.org", "", "", false, false},
		{"@alice:example.org:", "", "", false, false},
		{"@alice:example.org:8448:1", "", "", false, false},
		{"@a\x00b:example.org", "", "", false, false},
		{"@a\xffb:example.org", "", "", false, false},
		{"@a\xed\xa0\x80b:example.org", "", "", false, false}, // a surrogate
		{"#alice:example.org", "", "", false, false},
	}
	for _, tc := range tests {
		u, err := ParseUser(tc.in)
		if (err == nil) != tc.ok {
			t.Errorf("ParseUser(%q): error %v, want ok %v", tc.in, err, tc.ok)
			continue
		}
		if err != nil {
			if !errors.Is(err, merr.ErrInvalidParam) {
				t.Errorf("ParseUser(%q): %v, want M_INVALID_PARAM", tc.in, err)
			}
			continue
		}
		if u.Localpart() != tc.localpart || u.Server() != tc.server || u.IsCompliant() != tc.compliant {
			t.Errorf("%q: localpart %q, server %q, compliant %v", tc.in, u.Localpart(), u.Server(), u.IsCompliant())
		}
	}
}

func TestLengthsAreCountedInBytes(t *testing.T) {
	const tail = ":example.org"
	pad := func(sigil string, n int) string { return sigil + strings.Repeat("a", n-1-len(tail)) + tail }
	wide := func(sigil string) string { return sigil + strings.Repeat("日", 84) + tail } // 97 code points, 265 bytes
	parsers := map[string]func(string) error{
		"@": func(s string) error { _, err := ParseUser(s); return err },
		"!": func(s string) error { _, err := ParseRoom(s); return err },
		"#": func(s string) error { _, err := ParseRoomAlias(s); return err },
		"$": func(s string) error { _, err := ParseEvent(s); return err },
	}
	for sigil, parse := range parsers {
		if err := parse(pad(sigil, 255)); err != nil {
			t.Errorf("%s with 255 bytes: %v", sigil, err)
		}
		if parse(pad(sigil, 256)) == nil {
			t.Errorf("%s with 256 bytes was accepted", sigil)
		}
		if parse(wide(sigil)) == nil {
			t.Errorf("%s with 265 bytes in 97 characters was accepted", sigil)
		}
	}
}

func TestNewUser(t *testing.T) {
	for _, ok := range []string{"alice", "a", "0._=-/+z"} {
		u, err := NewUser(ok, "example.org")
		if err != nil || u != User("@"+ok+":example.org") {
			t.Errorf("NewUser(%q): %q, %v", ok, u, err)
		}
		if !u.IsCompliant() {
			t.Errorf("%q is not compliant", u)
		}
	}
	for _, bad := range []string{"", "Alice", "a b", "a:b", "日本", "a*", "@a", strings.Repeat("a", 250)} {
		if u, err := NewUser(bad, "example.org"); !errors.Is(err, merr.ErrInvalidUsername) {
			t.Errorf("NewUser(%q): %q, %v, want M_INVALID_USERNAME", bad, u, err)
		}
	}
}

func TestParseRoom(t *testing.T) {
	tests := []struct {
		in     string
		server Server
		ok     bool
	}{
		{"!abc:example.org", "example.org", true},
		{"!a b\n:example.org:1", "example.org:1", true},
		{"!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ", "", true},
		{"!", "", false},
		{"!:example.org", "", false},
		{"!abc:", "", false},
		{"!abc:bad_server", "", false},
		{"abc:example.org", "", false},
		{"!a\x00:example.org", "", false},
	}
	for _, tc := range tests {
		r, err := ParseRoom(tc.in)
		if (err == nil) != tc.ok || r.Server() != tc.server {
			t.Errorf("ParseRoom(%q): %q, %v", tc.in, r, err)
		}
	}
}

func TestParseRoomAlias(t *testing.T) {
	a, err := ParseRoomAlias("#ro om#日:example.org")
	if err != nil || a.Localpart() != "ro om#日" || a.Server() != "example.org" {
		t.Errorf("%q, %v", a, err)
	}
	for _, bad := range []string{"#", "#a", "#:example.org", "#a:", "a:example.org", "#a\x00:example.org", "#a:b c"} {
		if a, err := ParseRoomAlias(bad); err == nil {
			t.Errorf("ParseRoomAlias(%q) = %q", bad, a)
		}
	}
}

func TestParseEvent(t *testing.T) {
	for in, server := range map[string]Server{
		"$a4ecee13e2accdadf56c1025:example.com":        "example.com",
		"$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk": "",
		"$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg": "",
	} {
		if e, err := ParseEvent(in); err != nil || e.Server() != server {
			t.Errorf("ParseEvent(%q): %q, %v", in, e.Server(), err)
		}
	}
	for _, bad := range []string{"", "$", "$:example.org", "$a:", "a", "$a:b c", "$\x00"} {
		if e, err := ParseEvent(bad); err == nil {
			t.Errorf("ParseEvent(%q) = %q", bad, e)
		}
	}
}

// spec: appendices §4.2 (examples of valid server names)
func TestParseServer(t *testing.T) {
	tests := []struct {
		in, host string
		port     int
		literal  bool
	}{
		{"matrix.org", "matrix.org", 0, false},
		{"matrix.org:8888", "matrix.org", 8888, false},
		{"1.2.3.4", "1.2.3.4", 0, true},
		{"1.2.3.4:1234", "1.2.3.4", 1234, true},
		{"[1234:5678::abcd]", "1234:5678::abcd", 0, true},
		{"[1234:5678::abcd]:5678", "1234:5678::abcd", 5678, true},
		{"[::ffff:1.2.3.4]", "::ffff:1.2.3.4", 0, true},
		{"localhost", "localhost", 0, false},
		{"MATRIX.org", "MATRIX.org", 0, false},
		{"xn--bcher-kva.example:08448", "xn--bcher-kva.example", 8448, false},
		{"1.2.3.4.5", "1.2.3.4.5", 0, false},
		{"1.2.3", "1.2.3", 0, false},
		{"1234.2.3.4", "1234.2.3.4", 0, false},
	}
	for _, tc := range tests {
		s, err := ParseServer(tc.in)
		if err != nil {
			t.Errorf("ParseServer(%q): %v", tc.in, err)
			continue
		}
		if host, port, literal := s.HostPort(); host != tc.host || port != tc.port || literal != tc.literal {
			t.Errorf("%q: host %q, port %d, literal %v", tc.in, host, port, literal)
		}
	}
	for _, bad := range []string{
		"", ":80", "matrix.org:", "matrix.org:x", "matrix.org:123456", "matrix.org:70000", "matrix.org:0", "matrix.org:-1",
		"a b", "a_b", "bücher.example", "1.2.3.256", "[::1", "::1", "[::1]x", "[::1]:", "[]", "[1.2.3.4]", "[::g]", "[fe80::1%25]",
		"a/b", "user@host", "matrix.org\x00", strings.Repeat("a", 256),
	} {
		if s, err := ParseServer(bad); err == nil {
			t.Errorf("ParseServer(%q) = %q", bad, s)
		}
	}
}

func TestParseKeyID(t *testing.T) {
	k, err := ParseKeyID("ed25519:a:b")
	if err != nil || k.Algorithm() != "ed25519" || k.Version() != "a:b" {
		t.Errorf("%q, %v: %q %q", k, err, k.Algorithm(), k.Version())
	}
	for _, bad := range []string{"", "ed25519", "ed25519:", ":a", "ed25519:\x00", "ed25519:\xff", "ed25519:" + strings.Repeat("a", 255)} {
		if k, err := ParseKeyID(bad); err == nil {
			t.Errorf("ParseKeyID(%q) = %q", bad, k)
		}
	}
}

func TestAccessorsNeverFail(t *testing.T) {
	for _, s := range []string{"", "@", ":", "@:", "x", "::", "[", "[:", "[]"} {
		_, _ = User(s).Localpart(), User(s).Server()
		_, _ = RoomAlias(s).Localpart(), KeyID(s).Version()
		Server(s).HostPort()
	}
	if l := User("@x").Localpart(); l != "x" {
		t.Errorf("localpart %q of a user ID without a domain", l)
	}
	if h, p, lit := Server("[::1").HostPort(); h != "[::1" || p != 0 || lit {
		t.Errorf("a broken name gave %q %d %v", h, p, lit)
	}
}

func FuzzParseIDs(f *testing.F) {
	for _, s := range []string{"@a:b", "!a:b:1", "#a:[::1]:2", "$abc", "1.2.3.4:5", "ed25519:a", "@:日", "[::1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := ParseUser(s); err == nil {
			if got := "@" + u.Localpart() + ":" + string(u.Server()); got != s {
				t.Errorf("parts of %q give %q", s, got)
			}
			if _, err := ParseServer(string(u.Server())); err != nil {
				t.Errorf("the server of %q: %v", s, err)
			}
			if n, err := NewUser(u.Localpart(), u.Server()); err == nil && (string(n) != s || !n.IsCompliant()) {
				t.Errorf("NewUser gives %q for %q", n, s)
			}
		}
		if a, err := ParseRoomAlias(s); err == nil && "#"+a.Localpart()+":"+string(a.Server()) != s {
			t.Errorf("parts of %q differ", s)
		}
		if r, err := ParseRoom(s); err == nil && (len(s) > MaxLength || s[0] != '!') {
			t.Errorf("ParseRoom accepted %q as %q", s, r)
		}
		if e, err := ParseEvent(s); err == nil && (len(s) > MaxLength || s[0] != '$') {
			t.Errorf("ParseEvent accepted %q as %q", s, e)
		}
		if v, err := ParseServer(s); err == nil {
			host, port, _ := v.HostPort()
			if host == "" || port < 0 || port > 65535 || !strings.Contains(s, host) {
				t.Errorf("%q: host %q, port %d", s, host, port)
			}
		}
		if k, err := ParseKeyID(s); err == nil && k.Algorithm()+":"+k.Version() != s {
			t.Errorf("parts of the key ID %q differ", s)
		}
	})
}
