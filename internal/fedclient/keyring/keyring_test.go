package keyring

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
)

// remote is a server with keys.
type remote struct {
	t          testing.TB
	name       id.Server
	n          int
	key        id.KeyID
	priv       ed25519.PrivateKey
	old        map[string]any
	validUntil time.Time
}

func newRemote(t testing.TB, name id.Server) *remote {
	r := &remote{t: t, name: name, old: map[string]any{}}
	r.next()
	return r
}

func (r *remote) next() {
	r.n++
	r.key = id.KeyID(fmt.Sprintf("ed25519:k%d", r.n))
	seed := sha256.Sum256([]byte(string(r.name) + string(r.key)))
	r.priv = ed25519.NewKeyFromSeed(seed[:])
}

func (r *remote) public() ed25519.PublicKey { return r.priv.Public().(ed25519.PublicKey) }

func b64(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

// rotate makes the current key an old one.
func (r *remote) rotate(at time.Time) {
	r.old[string(r.key)] = map[string]any{"key": b64(r.public()), "expired_ts": at.UnixMilli()}
	r.next()
}

// object is the signed key object.
func (r *remote) object() []byte {
	return r.sign(map[string]any{
		"server_name":     r.name,
		"valid_until_ts":  r.validUntil.UnixMilli(),
		"verify_keys":     map[string]any{string(r.key): map[string]any{"key": b64(r.public())}},
		"old_verify_keys": r.old,
	})
}

func (r *remote) sign(v any) []byte {
	r.t.Helper()
	raw, ok := v.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(v); err != nil {
			r.t.Fatal(err)
		}
	}
	out, err := canonical.SignJSON(raw, string(r.name), r.key, r.priv)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

var errDown = errors.New("it is down")

// network is a Fetcher over remotes, and a clock.
type network struct {
	t  testing.TB
	mu sync.Mutex

	now     time.Time
	servers map[id.Server]*remote
	down    map[id.Server]bool
	// bodies replaces a server's own answer.
	bodies map[id.Server][]byte
	// notarised is what notaries know; mangle changes what they send.
	notarised map[id.Server][]byte
	mangle    func(raw []byte) []byte

	direct  map[id.Server]int
	queries []Want
	// gate, if set, holds direct requests back until it is closed.
	gate chan struct{}
}

func newNetwork(t testing.TB, names ...id.Server) *network {
	n := &network{
		t: t, now: time.UnixMilli(1_700_000_000_000), servers: map[id.Server]*remote{}, down: map[id.Server]bool{},
		bodies: map[id.Server][]byte{}, notarised: map[id.Server][]byte{}, direct: map[id.Server]int{},
	}
	for _, name := range names {
		r := newRemote(t, name)
		r.validUntil = n.now.Add(24 * time.Hour)
		n.servers[name] = r
	}
	return n
}

func (n *network) clock() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

func (n *network) advance(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now = n.now.Add(d)
}

func (n *network) asked(s id.Server) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.direct[s]
}

func (n *network) ServerKeys(ctx context.Context, s id.Server) ([]byte, error) {
	n.mu.Lock()
	n.direct[s]++
	gate, body, down, r := n.gate, n.bodies[s], n.down[s], n.servers[s]
	n.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	switch {
	case down || r == nil && body == nil:
		return nil, fmt.Errorf("%s: %w", s, errDown)
	case body != nil:
		return body, nil
	}
	return r.object(), nil
}

func (n *network) NotaryKeys(_ context.Context, notary id.Server, want Want) ([]json.RawMessage, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	copied := Want{}
	for s, k := range want {
		copied[s] = maps.Clone(k)
	}
	n.queries = append(n.queries, copied)
	if n.down[notary] {
		return nil, fmt.Errorf("%s: %w", notary, errDown)
	}
	var out []json.RawMessage
	for s := range want {
		raw, ok := n.notarised[s]
		if !ok {
			continue
		}
		raw = n.servers[notary].sign(raw)
		if n.mangle != nil {
			raw = n.mangle(raw)
		}
		out = append(out, raw)
	}
	return out, nil
}

func (n *network) ring(change func(*Config)) *Keyring {
	n.t.Helper()
	cfg := Config{ServerName: "us.example", Fetcher: n, Now: n.clock}
	if change != nil {
		change(&cfg)
	}
	k, err := New(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	return k
}

func wantKey(t *testing.T, k *Keyring, r *remote, kid id.KeyID, ts int64, ok bool) {
	t.Helper()
	pub, err := k.Key(context.Background(), r.name, kid, ts)
	if (err == nil) != ok {
		t.Fatalf("Key(%s, %s, %d) = %v, want found=%v", r.name, kid, ts, err, ok)
	}
	if ok && kid == r.key && !pub.Equal(r.public()) {
		t.Fatalf("Key(%s, %s) is another key", r.name, kid)
	}
}

func TestParseRejects(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	a, b := newRemote(t, "a.example"), newRemote(t, "b.example")
	a.validUntil = now.Add(time.Hour)
	b.validUntil = a.validUntil
	base := func(change func(m map[string]any)) []byte {
		m := map[string]any{
			"server_name": "a.example", "valid_until_ts": a.validUntil.UnixMilli(),
			"verify_keys": map[string]any{string(a.key): map[string]any{"key": b64(a.public())}},
		}
		change(m)
		return a.sign(m)
	}
	many := map[string]any{}
	for i := range maxKeys + 1 {
		many[fmt.Sprintf("ed25519:x%d", i)] = map[string]any{"key": b64(a.public())}
	}
	cases := []struct {
		name string
		raw  []byte
		want string // in the error; empty means accepted
	}{
		{"good", base(func(map[string]any) {}), ""},
		{"not JSON", []byte("<html>"), "invalid character"},
		{"other server's object", b.object(), `about "b.example"`},
		{"other server's key", func() []byte {
			raw, _ := canonical.SignJSON([]byte(`{"server_name":"a.example","valid_until_ts":1,"verify_keys":{"ed25519:k1":{"key":"`+b64(a.public())+`"}}}`), "a.example", "ed25519:k1", b.priv)
			return raw
		}(), "signature"},
		{"not signed", []byte(`{"server_name":"a.example","valid_until_ts":1,"verify_keys":{"ed25519:k1":{"key":"` + b64(a.public()) + `"}}}`), "not signed"},
		{"signed by an old key only", base(func(m map[string]any) {
			m["old_verify_keys"] = map[string]any{string(a.key): map[string]any{"key": b64(a.public()), "expired_ts": 5}}
			m["verify_keys"] = map[string]any{"ed25519:new": map[string]any{"key": b64(b.public())}}
		}), "not signed"},
		{"changed after signing", []byte(strings.Replace(string(a.object()), `"valid_until_ts":17`, `"valid_until_ts":18`, 1)), "signature"},
		{"too many keys", base(func(m map[string]any) { m["verify_keys"] = many }), "more than"},
		{"keys of unknown algorithms are skipped", base(func(m map[string]any) {
			m["verify_keys"].(map[string]any)["rsa:1"] = map[string]any{"key": "AAAA"}
		}), ""},
		{"too long", base(func(m map[string]any) { m["x"] = strings.Repeat("a", maxKeyJSON) }), "longer than"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			sk, err := Parse(c.raw, "a.example", now)
			if c.want == "" {
				if err != nil || len(sk.Keys) != 1 {
					t.Fatalf("Parse = %+v, %v", sk, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Parse error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestValidity(t *testing.T) {
	n := newNetwork(t, "a.example")
	a := n.servers["a.example"]
	now := n.clock()
	a.rotate(now.Add(-time.Hour))
	a.validUntil = now.Add(365 * 24 * time.Hour)
	k := n.ring(nil)
	at := func(d time.Duration) int64 { return now.Add(d).UnixMilli() }

	wantKey(t, k, a, "ed25519:k2", at(0), true)
	wantKey(t, k, a, "ed25519:k2", at(maxValidity-time.Minute), true)
	// The lesser of valid_until_ts and seven days.
	wantKey(t, k, a, "ed25519:k2", at(maxValidity+time.Minute), false)
	wantKey(t, k, a, "ed25519:k2", 0, true)
	wantKey(t, k, a, "ed25519:k1", at(-2*time.Hour), true)
	wantKey(t, k, a, "ed25519:k1", at(-time.Hour), true)
	wantKey(t, k, a, "ed25519:k1", at(-time.Minute), false)
	wantKey(t, k, a, "ed25519:k1", 0, true)
	wantKey(t, k, a, "ed25519:k3", 0, false)
}

func TestKeysAreFetchedAnewWhenTheyRunOut(t *testing.T) {
	n := newNetwork(t, "a.example")
	a := n.servers["a.example"]
	k := n.ring(nil)
	wantKey(t, k, a, a.key, n.clock().UnixMilli(), true)
	wantKey(t, k, a, a.key, n.clock().UnixMilli(), true)
	if got := n.asked("a.example"); got != 1 {
		t.Fatalf("asked %d times, want once", got)
	}
	n.advance(25 * time.Hour)
	wantKey(t, k, a, a.key, n.clock().UnixMilli(), false) // what the server says has run out too
	a.validUntil = n.clock().Add(time.Hour)
	n.advance(minPause)
	wantKey(t, k, a, a.key, n.clock().UnixMilli(), true)
	if got := n.asked("a.example"); got != 3 {
		t.Fatalf("asked %d times, want 3", got)
	}
}

func TestPauses(t *testing.T) {
	n := newNetwork(t, "a.example")
	a := n.servers["a.example"]
	k := n.ring(nil)
	n.down["a.example"] = true
	now := func() int64 { return n.clock().UnixMilli() }

	// After failures the pause doubles: 10 s, 20 s, 40 s.
	for i, pause := range []time.Duration{minPause, 2 * minPause, 4 * minPause} {
		wantKey(t, k, a, a.key, now(), false)
		wantKey(t, k, a, a.key, now(), false)
		if got := n.asked("a.example"); got != i+1 {
			t.Fatalf("asked %d times in round %d", got, i+1)
		}
		n.advance(pause - time.Millisecond)
		wantKey(t, k, a, a.key, now(), false)
		if got := n.asked("a.example"); got != i+1 {
			t.Fatalf("asked again before the pause of %s was over", pause)
		}
		n.advance(time.Millisecond)
	}
	n.mu.Lock()
	n.down["a.example"] = false
	n.mu.Unlock()
	wantKey(t, k, a, a.key, now(), true)

	// A key that the server does not have does not make us ask again at once.
	before := n.asked("a.example")
	for range 5 {
		wantKey(t, k, a, "ed25519:nosuch", now(), false)
	}
	if got := n.asked("a.example"); got != before {
		t.Fatalf("asked %d times more for an unknown key", got-before)
	}
	n.advance(minPause)
	wantKey(t, k, a, "ed25519:nosuch", now(), false)
	if got := n.asked("a.example"); got != before+1 {
		t.Fatalf("asked %d times more after the pause, want once", got-before)
	}
	_, err := k.Key(context.Background(), "a.example", "ed25519:nosuch", now())
	if !errors.Is(err, errPaused) {
		t.Fatalf("the error does not tell why: %v", err)
	}
}

// Who comes during a pause is told how the last question ended: that a server is down is no verdict on what it signed.
func TestAPauseTellsHowTheLastQuestionEnded(t *testing.T) {
	for _, notary := range []bool{false, true} {
		n := newNetwork(t, "a.example", "notary.example")
		a := n.servers["a.example"]
		n.down["a.example"], n.down["notary.example"] = !notary, true
		k := n.ring(func(c *Config) {
			if notary {
				c.Notaries = []Notary{{Server: "notary.example"}}
			}
		})
		ev := message(t, a, "10", n.clock())
		if notary {
			a.next() // the server does not know the key any more, the notary might
		}
		for i := range 3 {
			if _, err := k.FetchFor(context.Background(), []*event.Event{ev}); !errors.Is(err, errDown) || (i > 0) != errors.Is(err, errPaused) {
				t.Errorf("notary %v, the %d. time: %v", notary, i, err)
			}
		}
	}
}

func TestOneFetchForAll(t *testing.T) {
	n := newNetwork(t, "a.example")
	n.gate = make(chan struct{})
	k := n.ring(nil)
	a := n.servers["a.example"]

	gaveUp, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := k.Key(gaveUp, "a.example", a.key, 0); !errors.Is(err, context.Canceled) {
		t.Fatalf("a caller that gave up got %v", err)
	}
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		wg.Go(func() { _, errs[i] = k.Key(context.Background(), "a.example", a.key, 0) })
	}
	close(n.gate)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := n.asked("a.example"); got != 1 {
		t.Fatalf("asked %d times, want once", got)
	}
}

func TestNotary(t *testing.T) {
	pinned := func(n *network) func(*Config) {
		nt := n.servers["notary.example"]
		return func(c *Config) {
			c.Notaries = []Notary{{Server: nt.name, Keys: map[id.KeyID]ed25519.PublicKey{nt.key: nt.public()}}}
		}
	}
	fetched := func(n *network) func(*Config) {
		return func(c *Config) { c.Notaries = []Notary{{Server: "notary.example"}} }
	}
	other := newRemote(t, "notary.example")
	other.next()
	cases := []struct {
		name   string
		config func(*network) func(*Config)
		setup  func(n *network)
		found  bool
	}{
		{"key configured", pinned, func(n *network) {}, true},
		{"key fetched from the notary", fetched, func(n *network) {}, true},
		{"notary down", pinned, func(n *network) { n.down["notary.example"] = true }, false},
		{"notary's key cannot be had", fetched, func(n *network) { n.bodies["notary.example"] = []byte("{}") }, false},
		{"other key configured", func(n *network) func(*Config) {
			return func(c *Config) {
				c.Notaries = []Notary{{Server: "notary.example", Keys: map[id.KeyID]ed25519.PublicKey{"ed25519:k1": other.public()}}}
			}
		}, func(n *network) {}, false},
		{"not signed by the notary", pinned, func(n *network) {
			n.mangle = func([]byte) []byte { return n.notarised["a.example"] }
		}, false},
		{"changed by the notary", pinned, func(n *network) {
			n.mangle = func(raw []byte) []byte {
				return n.servers["notary.example"].sign([]byte(strings.Replace(string(raw), `"valid_until_ts":1`, `"valid_until_ts":2`, 1)))
			}
		}, false},
		{"answer about somebody else", pinned, func(n *network) {
			n.mangle = func([]byte) []byte { return n.servers["notary.example"].sign(n.servers["b.example"].object()) }
		}, false},
		{"second notary helps", func(n *network) func(*Config) {
			return func(c *Config) {
				c.Notaries = []Notary{{Server: "dead.example"}, {Server: "notary.example"}}
			}
		}, func(n *network) { n.down["dead.example"] = true }, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t, "a.example", "b.example", "notary.example")
			a := n.servers["a.example"]
			n.notarised["a.example"] = a.object()
			n.down["a.example"] = true
			c.setup(n)
			k := n.ring(c.config(n))
			wantKey(t, k, a, a.key, n.clock().UnixMilli(), c.found)
			if n.asked("a.example") != 1 {
				t.Fatal("the server itself was not asked first")
			}
			if _, ok := n.queries[0]["a.example"][a.key]; !ok {
				t.Fatalf("the notary was not asked for the key: %v", n.queries)
			}
			// Not again at once, whatever came of it.
			asked := len(n.queries)
			wantKey(t, k, a, "ed25519:nosuch", 0, false)
			if len(n.queries) != asked {
				t.Fatal("the notaries were asked again at once")
			}
		})
	}
}

func TestMerge(t *testing.T) {
	k1 := newRemote(t, "one.example").public()
	k2 := newRemote(t, "two.example").public()
	sk := func(until int64, keys map[id.KeyID]Key) *ServerKeys {
		return &ServerKeys{Server: "a.example", Keys: keys, ValidUntilTS: until, FetchedTS: until, JSON: []byte(fmt.Sprint(until))}
	}
	cases := []struct {
		name       string
		old, fresh map[id.KeyID]Key
		direct     bool
		want       map[id.KeyID]Key
	}{
		{"a key no longer mentioned stays", map[id.KeyID]Key{"x": {k1, 10, 0}}, map[id.KeyID]Key{"y": {k2, 20, 0}}, true,
			map[id.KeyID]Key{"x": {k1, 10, 0}, "y": {k2, 20, 0}}},
		{"validity grows", map[id.KeyID]Key{"x": {k1, 10, 0}}, map[id.KeyID]Key{"x": {k1, 20, 0}}, true, map[id.KeyID]Key{"x": {k1, 20, 0}}},
		{"validity does not shrink", map[id.KeyID]Key{"x": {k1, 20, 0}}, map[id.KeyID]Key{"x": {k1, 10, 0}}, false, map[id.KeyID]Key{"x": {k1, 20, 0}}},
		{"a key is retired", map[id.KeyID]Key{"x": {k1, 20, 0}}, map[id.KeyID]Key{"x": {k1, 0, 5}}, false, map[id.KeyID]Key{"x": {k1, 0, 5}}},
		{"a notary does not revive a key", map[id.KeyID]Key{"x": {k1, 0, 5}}, map[id.KeyID]Key{"x": {k1, 20, 0}}, false, map[id.KeyID]Key{"x": {k1, 0, 5}}},
		{"the server may revive a key", map[id.KeyID]Key{"x": {k1, 0, 5}}, map[id.KeyID]Key{"x": {k1, 20, 0}}, true, map[id.KeyID]Key{"x": {k1, 20, 0}}},
		{"a notary does not replace a key", map[id.KeyID]Key{"x": {k1, 10, 0}}, map[id.KeyID]Key{"x": {k2, 20, 0}}, false, map[id.KeyID]Key{"x": {k1, 10, 0}}},
		{"the server may replace a key", map[id.KeyID]Key{"x": {k1, 10, 0}}, map[id.KeyID]Key{"x": {k2, 20, 0}}, true, map[id.KeyID]Key{"x": {k2, 20, 0}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := merge(sk(10, c.old), sk(20, c.fresh), c.direct)
			if fmt.Sprint(got.Keys) != fmt.Sprint(c.want) {
				t.Fatalf("merge = %v, want %v", got.Keys, c.want)
			}
		})
	}
	if got := merge(sk(20, nil), sk(10, nil), false); string(got.JSON) != "20" {
		t.Fatal("an older object from a notary replaced a newer one")
	}
	if got := merge(sk(20, nil), sk(10, nil), true); string(got.JSON) != "10" {
		t.Fatal("the server's own object did not replace what was known")
	}
	full := map[id.KeyID]Key{}
	for i := range maxKeys {
		full[id.KeyID(fmt.Sprint("o", i))] = Key{Public: k1}
	}
	if got := merge(sk(10, full), sk(20, map[id.KeyID]Key{"new": {k2, 20, 0}}), true); len(got.Keys) != maxKeys || got.Keys["new"].Public == nil {
		t.Fatalf("%d keys, new key kept: %v", len(got.Keys), got.Keys["new"].Public != nil)
	}
}

// memStore is a KeyStore that can fail.
type memStore struct {
	mu   sync.Mutex
	m    map[id.Server]*ServerKeys
	fail error
}

func (s *memStore) Load(_ context.Context, server id.Server) (*ServerKeys, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[server], s.fail
}

func (s *memStore) Save(_ context.Context, sk *ServerKeys) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m[sk.Server] = sk
	return s.fail
}

func TestStoreOutlivesTheRing(t *testing.T) {
	n := newNetwork(t, "a.example")
	a := n.servers["a.example"]
	store := &memStore{m: map[id.Server]*ServerKeys{}}
	withStore := func(c *Config) { c.Store = store }
	wantKey(t, n.ring(withStore), a, a.key, n.clock().UnixMilli(), true)

	n.down["a.example"] = true
	k := n.ring(withStore)
	wantKey(t, k, a, a.key, n.clock().UnixMilli(), true)
	if got := n.asked("a.example"); got != 1 {
		t.Fatalf("asked %d times, want once", got)
	}
	sk, err := k.ServerKeys(context.Background(), "a.example", 0)
	if err != nil || string(sk.JSON) != string(a.object()) {
		t.Fatalf("the object for notary answers is %v, %v", sk, err)
	}
	// One that is no longer valid is still given when the server is down.
	n.advance(48 * time.Hour)
	if sk, err = k.ServerKeys(context.Background(), "a.example", 0); err != nil || sk == nil {
		t.Fatalf("no object of a server that is down: %v", err)
	}
	if got := n.asked("a.example"); got != 2 {
		t.Fatalf("asked %d times, want twice", got)
	}

	broken := errors.New("disk on fire")
	store.fail = broken
	if _, err := n.ring(withStore).Key(context.Background(), "a.example", a.key, 0); !errors.Is(err, broken) {
		t.Fatalf("a broken store gave %v", err)
	}
}

func TestOwnKeysAreNotFetched(t *testing.T) {
	n := newNetwork(t)
	us := newRemote(t, "us.example")
	oldKey := newRemote(t, "old.example").public()
	k := n.ring(func(c *Config) {
		c.OwnKeys = map[id.KeyID]Key{us.key: {Public: us.public()}, "ed25519:old": {Public: oldKey, ExpiredTS: 500}}
	})
	wantKey(t, k, us, us.key, n.clock().Add(1000*24*time.Hour).UnixMilli(), true)
	wantKey(t, k, us, "ed25519:old", 400, true)
	wantKey(t, k, us, "ed25519:old", 600, false)
	wantKey(t, k, us, "ed25519:nosuch", 0, false)
	if len(n.direct) != 0 {
		t.Fatalf("asked %v", n.direct)
	}
}

func TestCacheIsBounded(t *testing.T) {
	n := newNetwork(t)
	k := n.ring(func(c *Config) { c.CacheEntries = 50 })
	for i := range 1000 {
		_, err := k.Key(context.Background(), id.Server(fmt.Sprintf("s%d.example", i)), "ed25519:x", 0)
		if err == nil {
			t.Fatal("found a key of a server that does not exist")
		}
	}
	k.servers.CleanUp()
	if got := k.servers.EstimatedSize(); got > 50 {
		t.Fatalf("%d servers in memory, want at most 50", got)
	}
}

func TestVerifyJSON(t *testing.T) {
	n := newNetwork(t, "a.example", "b.example")
	a, b := n.servers["a.example"], n.servers["b.example"]
	k := n.ring(nil)
	ctx := context.Background()
	obj := a.sign(map[string]any{"x": 1})
	if err := k.VerifyJSON(ctx, a.name, obj, n.clock().UnixMilli()); err != nil {
		t.Fatal(err)
	}
	if err := k.VerifyJSON(ctx, b.name, obj, 0); err == nil {
		t.Fatal("verified without a signature")
	}
	changed := []byte(strings.Replace(string(obj), `"x":1`, `"x":2`, 1))
	if err := k.VerifyJSON(ctx, a.name, changed, 0); err == nil {
		t.Fatal("verified a changed object")
	}
}
