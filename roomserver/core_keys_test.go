package roomserver

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"weft/internal/fedclient"
	"weft/internal/fedclient/keyring"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const quinn id.User = "@quinn:q"

// keyNet gives the keys of the servers of a world, but of those that are down.
type keyNet struct {
	w *world

	mu   sync.Mutex
	down map[id.Server]bool
}

func (k *keyNet) set(server id.Server, down bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down[server] = down
}

func (k *keyNet) ServerKeys(_ context.Context, server id.Server) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.down[server] {
		return nil, &fedclient.ConnError{Server: server, Err: errors.New("it is down")}
	}
	pub := canonical.EncodeBase64(keyOf(server).Public().(ed25519.PublicKey))
	raw := fmt.Appendf(nil, `{"server_name":%q,"valid_until_ts":%d,"verify_keys":{%q:{"key":%q}},"old_verify_keys":{}}`,
		server, k.w.now().Add(48*time.Hour).UnixMilli(), testKeyID, pub)
	return canonical.SignJSON(raw, string(server), testKeyID, keyOf(server))
}

func (k *keyNet) NotaryKeys(context.Context, id.Server, keyring.Want) ([]json.RawMessage, error) {
	return nil, errors.New("there is no notary")
}

// withoutKeys makes a server fetch keys, and servers whose keys it knows none of unreachable for that.
func (s *scene) withoutKeys(down ...id.Server) *keyNet {
	s.w.t.Helper()
	net := &keyNet{w: s.w, down: make(map[id.Server]bool)}
	for _, d := range down {
		net.down[d] = true
	}
	ring, err := keyring.New(keyring.Config{ServerName: s.name, Fetcher: net, Now: s.w.now,
		OwnKeys: map[id.KeyID]keyring.Key{testKeyID: {Public: keyOf(s.name).Public().(ed25519.PublicKey)}}})
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.cfg.Keys = ring
	return net
}

// later lets time go by, so that keys are asked for again.
func (w *world) later(d time.Duration) { w.clock.Add(d.Milliseconds()) }

func (s *scene) staged() int64 {
	s.w.t.Helper()
	n, err := s.store.StagedCount(context.Background(), s.row(s.room).NID)
	if err != nil {
		s.w.t.Fatal(err)
	}
	return n
}

// retry takes staged events up again and waits until that is done.
func (s *scene) retry() {
	s.w.t.Helper()
	if err := s.inbound.adopt(context.Background(), 0); err != nil {
		s.w.t.Fatal(err)
	}
	waitFor(s.w.t, func() bool { return !s.inbound.busy(s.room) })
}

// An event of a server whose keys cannot be had waits for it, also while they are not asked for.
func TestReceiveStep2WaitsForKeys(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "11")
		net := s.withoutKeys("p")
		s.run()
		ev := s.forge(s.room, message(pat, "from a server that is away"))
		if answer := s.receive(transactionOf("p", "1", ev)); answer[ev.ID] != "" {
			t.Errorf("it was refused: %s", answer[ev.ID])
		}
		for range 3 {
			s.retry()
			if n := s.staged(); n != 1 {
				t.Fatalf("%d events are staged", n)
			}
			s.has(ev, -1)
		}
		net.set("p", false)
		s.w.later(time.Hour)
		s.retry()
		s.has(ev, 0)
		if n := s.staged(); n != 0 {
			t.Errorf("%d events stay staged", n)
		}
		s.check()
	})
}

// An event waits for those who signed what it needs, too, also while their keys are not asked for.
func TestReceiveWaitsForKeysOfOthers(t *testing.T) {
	cases := []struct {
		name string
		make func(s *scene, joined *event.Event) *event.Event
	}{
		{"step 4, a previous event", func(s *scene, joined *event.Event) *event.Event {
			before := s.forge(s.room, message(quinn, "before"))
			s.p.missing = func(id.Room, fedclient.MissingEvents) ([]json.RawMessage, error) {
				return []json.RawMessage{before.JSON()}, nil
			}
			return s.forge(s.room, message(pat, "after"), on(before), by(s.auth()...))
		}},
		{"step 6, an auth event", func(s *scene, joined *event.Event) *event.Event {
			levels := s.forge(s.room, state(quinn, "m.room.power_levels", "", fmt.Sprintf(`{"users":{%q:100,%q:100},"events_default":0}`, alice, quinn)))
			s.serve(levels)
			return s.forge(s.room, message(pat, "by new levels"), by(append(s.authBut(s.levels), levels)...))
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
				s := newScene(t, open, "11")
				joined := s.acceptJoin(s.room, quinn)
				s.send(s.room, state(alice, "m.room.power_levels", "", fmt.Sprintf(`{"users":{%q:100,%q:100},"events_default":0}`, alice, quinn)))
				s.levels = s.stateEvent(s.room, "m.room.power_levels", "")
				ev := c.make(s, joined)
				net := s.withoutKeys("q")
				for range 3 {
					if errs := s.push("p", ev); !isLater(errs[ev.ID]) {
						t.Fatalf("got %v", errs[ev.ID])
					}
					s.has(ev, -1)
				}
				net.set("q", false)
				s.w.later(time.Hour)
				s.mustPush("p", ev)
				s.has(ev, 0)
				s.check()
			})
		})
	}
}

// A signature that is wrong is no reason to wait.
func TestReceiveStep2DoesNotWaitForNothing(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "11")
		s.withoutKeys()
		forged, err := s.forge(s.room, message(pat, "forged")).Sign("p", testKeyID, keyOf("mallory"))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if errs := s.push("p", forged); errs[forged.ID] == nil || isLater(errs[forged.ID]) {
				t.Errorf("got %v", errs[forged.ID])
			}
		}
		s.has(forged, -1)
	})
}

// When the server stops while keys are fetched, the events are still to be judged.
func TestReceiveStep2Interrupted(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "11")
		ctx, cancel := context.WithCancel(context.Background())
		s.cfg.Keys = stoppedKeys{cancel}
		ev := s.forge(s.room, message(pat, "x"))
		if err := s.checkSignatures(ctx, []*event.Event{ev})[0]; !isLater(err) {
			t.Errorf("got %v", err)
		}
	})
}

// stoppedKeys ends a context and gives no keys.
type stoppedKeys struct{ cancel func() }

func (k stoppedKeys) FetchFor(ctx context.Context, _ []*event.Event) (event.KeyFunc, error) {
	k.cancel()
	return func(id.Server, id.KeyID, int64) (ed25519.PublicKey, bool) { return nil, false }, ctx.Err()
}

// One server of several that gave no answer is enough to wait.
func TestUnreached(t *testing.T) {
	conn := &fedclient.ConnError{Server: "p", Err: errors.New("x")}
	answer := func(status int) error { return wire("p", merr.New(status, "M_UNKNOWN", "x")) }
	for _, c := range []struct {
		err  error
		want bool
	}{
		{errors.New("x"), false}, {nil, false}, {conn, true}, {answer(404), false}, {answer(502), true}, {answer(429), true},
		{errors.Join(answer(404), answer(503)), true}, {fmt.Errorf("x: %w", &laterError{fmt.Errorf("%w (%w)", errors.New("y"), conn)}), true},
	} {
		if got := unreached(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}
