package serveracl

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weft/matrix/id"
)

func TestAllowed(t *testing.T) {
	cases := []struct {
		name, acl string
		server    id.Server
		want      bool
	}{
		{"all are allowed", `{"allow":["*"]}`, "a.example", true},
		{"no allow list shuts everybody out", `{}`, "a.example", false},
		{"an empty allow list as well", `{"allow":[]}`, "a.example", false},
		{"allow of a wrong type counts as missing", `{"allow":"*"}`, "a.example", false},
		{"entries of a wrong type do not match", `{"allow":[1,null,["*"]]}`, "a.example", false},
		{"content that is no object", `[]`, "a.example", false},
		{"deny beats allow", `{"allow":["*"],"deny":["evil.example"]}`, "evil.example", false},
		{"deny of another", `{"allow":["*"],"deny":["evil.example"]}`, "good.example", true},
		{"deny of a wrong type counts as missing", `{"allow":["*"],"deny":"*"}`, "a.example", true},
		{"deny by glob", `{"allow":["*"],"deny":["*.evil.example"]}`, "x.y.evil.example", false},
		{"the glob wants its dot", `{"allow":["*"],"deny":["*.evil.example"]}`, "evil.example", true},
		{"a question mark is one character", `{"allow":["matri?.example"]}`, "matrix.example", true},
		{"and not none", `{"allow":["matri?.example"]}`, "matri.example", false},
		{"and not two", `{"allow":["matri?.example"]}`, "matrixx.example", false},
		{"a dot is only a dot", `{"allow":["a.example"]}`, "axexample", false},
		{"brackets are no pattern", `{"allow":["[ab].example"]}`, "a.example", false},
		{"the whole name must match", `{"allow":["a.example"]}`, "a.example.org", false},
		{"case does not count", `{"allow":["A.Example"]}`, "a.eXample", true},
		{"the port does not count", `{"allow":["a.example"]}`, "a.example:8448", true},
		{"a pattern with a port matches nothing", `{"allow":["a.example:8448"]}`, "a.example:8448", false},
		{"IP literals by default", `{"allow":["*"]}`, "1.2.3.4", true},
		{"IP literals where they are allowed", `{"allow":["*"],"allow_ip_literals":true}`, "1.2.3.4:80", true},
		{"IP literals where they are not", `{"allow":["*"],"allow_ip_literals":false}`, "1.2.3.4:80", false},
		{"IPv6 literals where they are not", `{"allow":["*"],"allow_ip_literals":false}`, "[2001:db8::1]:80", false},
		{"IPv6 literals where they are", `{"allow":["*"]}`, "[2001:db8::1]", true},
		{"names where IP literals are not", `{"allow":["*"],"allow_ip_literals":false}`, "1.2.3.4.example", true},
		{"an IP literal by name, its port does not count", `{"allow":["*"],"deny":["10.0.0.1"]}`, "10.0.0.1:1234", false},
		{"wrong entries do not hide right ones", `{"allow":["*"],"deny":[7,"a.example"]}`, "a.example", false},
		{"allow_ip_literals of a wrong type", `{"allow":["*"],"allow_ip_literals":"false"}`, "1.2.3.4", true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := Allowed([]byte(c.acl), c.server); got != c.want {
				t.Errorf("%s with %s: %t, want %t", c.server, c.acl, got, c.want)
			}
		})
	}
}

// TestGlob compares with the definition, which takes exponential time.
func TestGlob(t *testing.T) {
	var slow func(p, s string) bool
	slow = func(p, s string) bool {
		switch {
		case p == "":
			return s == ""
		case p[0] == '*':
			return slow(p[1:], s) || s != "" && slow(p, s[1:])
		}
		return s != "" && (p[0] == '?' || p[0] == s[0]) && slow(p[1:], s[1:])
	}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringOfN(rapid.SampledFrom([]rune("ab*?")), 0, 8, -1).Draw(t, "pattern")
		s := rapid.StringOfN(rapid.SampledFrom([]rune("ab")), 0, 10, -1).Draw(t, "text")
		if got, want := globMatch(p, s), slow(p, s); got != want {
			t.Fatalf("%q on %q: %t, want %t", p, s, got, want)
		}
	})
}

func TestGlobTakesNoExponentialTime(t *testing.T) {
	began := time.Now()
	if globMatch(strings.Repeat("*a", 200)+"b", strings.Repeat("a", 20_000)) {
		t.Error("it matches")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}
