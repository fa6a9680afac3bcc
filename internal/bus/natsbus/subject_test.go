package natsbus

import (
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
	for _, bad := range []string{"", "a.b", "=2", "==", "=2e", "=61", "=XX", "ü", "a=", "=="} {
		if s, ok := text(bad); ok {
			t.Errorf("text(%q) = %q", bad, s)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add("")
	f.Add("a.b")
	f.Add("=2E")
	f.Fuzz(func(t *testing.T, s string) {
		tok := token(s)
		if strings.ContainsAny(tok, ".*> \t\r\n") || tok == "" {
			t.Errorf("token(%q) = %q", s, tok)
		}
		if got, ok := text(tok); !ok || got != s {
			t.Errorf("text(token(%q)) = %q, %v", s, got, ok)
		}
		if got, ok := text(s); ok && token(got) != s {
			t.Errorf("token(text(%q)) = %q", s, token(got))
		}
	})
}
