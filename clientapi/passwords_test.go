package clientapi

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"weft/matrix/merr"
)

func TestPasswordHasher(t *testing.T) {
	h := newPasswordHasher(PasswordCost{MemoryKiB: 64, Passes: 1})
	ctx := t.Context()
	a, err := h.hash(ctx, "secret")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := h.hash(ctx, "secret"); err != nil || a == b {
		t.Errorf("two hashes are equal: %q (%v)", b, err)
	}
	for _, c := range []struct {
		password, hash string
		want           bool
	}{
		{"secret", a, true}, {"Secret", a, false}, {"", a, false},
		{"secret", "", false}, // no account, or one without a password
		{"", h.decoy, false}, {strings.Repeat("x", maxPassword+1), a, false},
	} {
		if got, err := h.verify(ctx, c.password, c.hash); err != nil || got != c.want {
			t.Errorf("verify(%.10q, %.20q) = %v, %v", c.password, c.hash, got, err)
		}
	}
	// A hash keeps the cost it was made with.
	dear := newPasswordHasher(PasswordCost{MemoryKiB: 128, Passes: 2, Lanes: 2})
	if ok, err := dear.verify(ctx, "secret", a); err != nil || !ok {
		t.Errorf("another cost: %v %v", ok, err)
	}
	for _, bad := range []string{"x", "$argon2i$v=19$m=1,t=1,p=1$AA$AA", "$argon2id$v=19$m=1,t=1$AA$AA", "$argon2id$v=19$m=8,t=1,p=1$*$AA", "$argon2id$v=19$m=8,t=1,p=1$AA$"} {
		if _, err := h.verify(ctx, "secret", bad); !errors.Is(err, errHashFormat) {
			t.Errorf("verify with %q: %v", bad, err)
		}
	}
	if _, err := h.hash(ctx, strings.Repeat("x", maxPassword+1)); !errors.Is(err, merr.ErrInvalidParam) {
		t.Errorf("a long password: %v", err)
	}
}

func TestPasswordHasherIsBounded(t *testing.T) {
	h := newPasswordHasher(PasswordCost{MemoryKiB: 64, Passes: 1, Concurrent: 1})
	if err := h.slots.Acquire(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.hash(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("no slot was free, and still: %v", err)
	}
	if _, err := h.verify(ctx, "x", h.decoy); !errors.Is(err, context.Canceled) {
		t.Errorf("no slot was free, and still: %v", err)
	}
}

func TestDefaultPasswordCost(t *testing.T) {
	if h := newPasswordHasher(PasswordCost{}); h.cost != (PasswordCost{MemoryKiB: 19456, Passes: 2, Lanes: 1, Concurrent: 2}) {
		t.Errorf("%+v", h.cost)
	}
}

func TestMetrics(t *testing.T) {
	var reg *prometheus.Registry
	fresh := func(c *Config) {
		reg = prometheus.NewRegistry()
		c.Metrics = reg
	}
	eachDB(t, fresh, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		for range 3 {
			e.ok("GET", c3+"/account/whoami", token, nil)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := f.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		for name, want := range map[string]float64{"weft_clientapi_token_lookups_total hit": 2, "weft_clientapi_token_lookups_total miss": 1,
			"weft_clientapi_password_hashes_total": 1, "weft_clientapi_cached_sessions": 1} {
			if got[name] != want {
				t.Errorf("%s is %v, want %v", name, got[name], want)
			}
		}
	})
}

func TestText(t *testing.T) {
	for _, c := range []struct {
		text string
		max  int
		ok   bool
	}{{"abc", 3, true}, {"abcd", 3, false}, {"\xff", 3, false}, {"a\x00", 3, false}, {"é", 2, true}, {"", 0, true}} {
		if err := checkText("x", c.text, c.max); (err == nil) != c.ok {
			t.Errorf("checkText(%q, %d) = %v", c.text, c.max, err)
		}
	}
	for _, c := range []struct {
		text string
		max  int
		want string
	}{{"abc", 2, "ab"}, {"aéb", 2, "a"}, {"a\x00b\xff", 9, "ab\uFFFD"}, {"é", 0, ""}} {
		if got := cleanText(c.text, c.max); got != c.want {
			t.Errorf("cleanText(%q, %d) = %q, want %q", c.text, c.max, got, c.want)
		}
	}
}

func TestRunEndsCleanly(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, device := e.register("alice")
		e.newRoom("@alice:test")
		e.clock.Advance(flushInterval)
		e.ok("GET", c3+"/account/whoami", token, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- e.srv.Run(ctx) }()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(e.srv.lastSeen.take()) != 0 {
			t.Error("what was seen last was not written down")
		}
		d, err := e.srv.getDevice(t.Context(), "@alice:test", device)
		if err != nil || d.LastSeenTS != e.clock.Now().UnixMilli() {
			t.Errorf("%+v %v", d, err)
		}
	})
}
