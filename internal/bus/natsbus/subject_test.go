package natsbus

import (
	"net/url"
	"strings"
	"testing"

	"weft/internal/bus"
)

func TestToken(t *testing.T) {
	for in, want := range map[string]string{
		bus.TopicUpdates: bus.TopicUpdates, "": "=", "a.b": "a=2Eb", "*": "=2A", ">": "=3E", "ü ": "=C3=BC=20", "a=": "a=3D", "A-_9": "A-_9",
	} {
		if got := token(in); got != want {
			t.Errorf("token(%q) = %q, want %q", in, got, want)
		}
	}
}

// FuzzToken checks that a token is one, and that no two texts have the same.
func FuzzToken(f *testing.F) {
	f.Add("")
	f.Add("a.b")
	f.Add("=2E")
	f.Fuzz(func(t *testing.T, s string) {
		tok := token(s)
		if strings.ContainsAny(tok, ".*> \t\r\n") || tok == "" {
			t.Errorf("token(%q) = %q", s, tok)
		}
		if tok == "=" {
			tok = ""
		}
		if got, err := url.PathUnescape(strings.ReplaceAll(tok, "=", "%")); err != nil || got != s {
			t.Errorf("token(%q) stands for %q, %v", s, got, err)
		}
	})
}
