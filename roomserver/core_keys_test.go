package roomserver

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"weft/internal/eventstore"
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

// gap makes an event of pat's behind a gap, in which a state event was sent: pat's server tells of the state there
// and serves what is in it. hidden is the event before the gap's end, whose state is asked for.
func (s *scene) gap(inState *event.Event) (news, hidden *event.Event) {
	start := s.stored(s.tips(s.room)[0]).Event
	hidden = s.forge(s.room, message(pat, "in the gap"), on(start, inState), by(s.auth()...))
	shown := s.forge(s.room, message(pat, "after the gap"), on(hidden), by(s.auth()...))
	s.p.missing = func(id.Room, fedclient.MissingEvents) ([]json.RawMessage, error) {
		return []json.RawMessage{shown.JSON()}, nil
	}
	s.p.stateIDs = func(id.Room, id.Event) (*fedclient.StateIDs, error) {
		out := &fedclient.StateIDs{State: []id.Event{inState.ID}}
		for _, e := range s.current(s.room) {
			out.State = append(out.State, e)
		}
		return out, nil
	}
	s.serve(inState, hidden)
	return s.forge(s.room, message(pat, "news"), on(shown), by(s.auth()...)), hidden
}

// A state of which a part was not given is no state: the event waits until it is given.
func TestReceiveStep5StateNotGivenInFull(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		topic := s.forge(s.room, state(alice, "m.room.topic", "", `{"topic":"in the gap"}`))
		news, hidden := s.gap(topic)
		all := s.p.event
		s.p.event = func(e id.Event) (json.RawMessage, error) {
			if e == topic.ID {
				return nil, &fedclient.ConnError{Server: "p", Err: errors.New("busy")}
			}
			return all(e)
		}
		for range 2 {
			if errs := s.push("p", news); !isLater(errs[news.ID]) {
				t.Fatalf("got %v", errs[news.ID])
			}
			s.has(news, -1)
			s.has(hidden, eventstore.Outlier)
		}
		s.p.event = all
		s.mustPush("p", news)
		s.has(news, 0)
		if got := s.stateEvent(s.room, "m.room.topic", ""); got.ID != topic.ID {
			t.Errorf("the topic is %s", got.ID)
		}
	})
}

// Where it cannot be had in parts for some time, or nobody would try again, it is asked for as a whole.
func TestReceiveStep5StateThatIsNotGivenInParts(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		topic := s.forge(s.room, state(alice, "m.room.topic", "", `{"topic":"in the gap"}`))
		news, hidden := s.gap(topic)
		s.p.event = func(e id.Event) (json.RawMessage, error) {
			switch {
			case e == hidden.ID:
				return hidden.JSON(), nil
			case e != topic.ID:
				return s.peer.event(e)
			case !slices.Contains(s.p.calls, "state"):
				return nil, wire("p", merr.New(500, "M_UNKNOWN", "broken"))
			}
			return topic.JSON(), nil
		}
		received := map[id.Event]int64{news.ID: s.now()}
		push := func() error {
			return s.inputStaged(context.Background(), "p", []*event.Event{news}, received)[news.ID]
		}
		if err := push(); !isLater(err) || slices.Contains(s.p.calls, "state") {
			t.Fatalf("got %v, asked %v", err, s.p.calls)
		}
		s.w.later(gapWait)
		if err := push(); err != nil {
			t.Fatal(err)
		}
		s.has(news, 0)
		if got := s.stateEvent(s.room, "m.room.topic", ""); got.ID != topic.ID {
			t.Errorf("the topic is %s", got.ID)
		}
	})
}

// What the server says it does not have is not waited for.
func TestReceiveStep5StateThatIsNotThere(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		topic := s.forge(s.room, state(alice, "m.room.topic", "", `{"topic":"in the gap"}`))
		news, hidden := s.gap(topic)
		s.serve(hidden)
		s.mustPush("p", news)
		s.has(news, 0)
		s.has(topic, -1)
	})
}

// More events than are asked for one by one come as a whole, however large the state: none is cut off.
func TestReceiveStep5StateIsNotCutOff(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "11")
		s.limits.FetchEvents = 3
		last := s.stored(s.tips(s.room)[0]).Event
		var tests []*event.Event
		for i := range 6 {
			last = s.forge(s.room, state(alice, "org.test", fmt.Sprint(i), `{}`), on(last))
			tests = append(tests, last)
		}
		news, hidden := s.gap(last)
		known := s.p.stateIDs
		s.p.stateIDs = func(room id.Room, at id.Event) (*fedclient.StateIDs, error) {
			out, err := known(room, at)
			for _, e := range tests[:5] {
				out.State = append(out.State, e.ID)
			}
			return out, err
		}
		s.p.event = func(i id.Event) (json.RawMessage, error) {
			for _, e := range append(tests, hidden) {
				if e.ID == i {
					return e.JSON(), nil
				}
			}
			return s.peer.event(i)
		}
		s.mustPush("p", news)
		for _, e := range tests {
			if got := s.stateEvent(s.room, "org.test", e.StateKey); got.ID != e.ID {
				t.Errorf("%s is %s", e.StateKey, got.ID)
			}
		}
		s.check()
	})
}

// A state waits for the keys of those who came in the gap, or what they say would be rejected for ever, but not for
// those who may be gone for good.
func TestReceiveStep5StateWaitsForKeys(t *testing.T) {
	type waiting struct {
		*scene
		net        *keyNet
		join, news *event.Event
		push       func() error
	}
	begin := func(t *testing.T, open func() *sqldb.DB, old bool) *waiting {
		w := &waiting{scene: newScene(t, open, "11")}
		w.join = w.forge(w.room, state(quinn, "m.room.member", string(quinn), `{"membership":"join"}`))
		if old {
			w.send(w.room, message(alice, "the room goes on"), message(alice, "without quinn"))
		}
		w.news, _ = w.gap(w.join)
		w.net = w.withoutKeys("q")
		received := map[id.Event]int64{w.news.ID: w.now()}
		w.push = func() error {
			return w.inputStaged(context.Background(), "p", []*event.Event{w.news}, received)[w.news.ID]
		}
		return w
	}
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		t.Run("until they come", func(t *testing.T) {
			w := begin(t, open, false)
			for range 2 {
				if err := w.push(); !isLater(err) {
					t.Fatalf("got %v", err)
				}
			}
			w.has(w.news, -1)
			w.net.set("q", false)
			w.w.later(time.Minute)
			if err := w.push(); err != nil {
				t.Fatal(err)
			}
			w.has(w.news, 0)
			said := w.forge(w.room, message(quinn, "hello"))
			w.mustPush("q", said)
			w.has(said, 0)
			w.check()
		})
		t.Run("not for ever", func(t *testing.T) {
			w := begin(t, open, false)
			w.w.later(gapWait - time.Minute)
			if err := w.push(); !isLater(err) {
				t.Fatalf("got %v", err)
			}
			w.w.later(2 * time.Minute)
			if err := w.push(); err != nil {
				t.Fatal(err)
			}
			w.has(w.news, 0)
			w.has(w.join, -1)
			w.check()
		})
		t.Run("not for who was there before", func(t *testing.T) {
			w := begin(t, open, true)
			if err := w.push(); err != nil {
				t.Fatal(err)
			}
			w.has(w.news, 0)
			w.has(w.join, -1)
			w.check()
		})
	})
}
