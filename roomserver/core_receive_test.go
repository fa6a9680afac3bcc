package roomserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

const pat id.User = "@pat:p"

// scene is a room of alice on a real server, which pat of a puppet server has joined.
type scene struct {
	*node
	room   id.Room
	p      *peer
	create *event.Event
	levels *event.Event
	rules  *event.Event
	join   *event.Event // pat's
}

func newScene(t *testing.T, open func() *sqldb.DB, version event.RoomVersion) *scene {
	w := newWorld(t, open)
	a := w.node("a")
	room := a.create(version, alice)
	s := &scene{node: a, room: room, p: w.puppet("p")}
	s.join = a.acceptJoin(room, pat)
	s.create = a.stateEvent(room, "m.room.create", "")
	s.levels = a.stateEvent(room, "m.room.power_levels", "")
	s.rules = a.stateEvent(room, "m.room.join_rules", "")
	return s
}

// auth gives the auth events of an ordinary event of pat's.
func (s *scene) auth(extra ...*event.Event) []*event.Event {
	list := append([]*event.Event{s.levels, s.join}, extra...)
	if !s.create.Rules.RoomIDIsCreateHash {
		list = append(list, s.create)
	}
	return list
}

// authBut gives them without one.
func (s *scene) authBut(not *event.Event) []*event.Event {
	return slices.DeleteFunc(s.auth(), func(e *event.Event) bool { return e == not })
}

func (s *scene) serve(events ...*event.Event) {
	s.p.event = func(i id.Event) (json.RawMessage, error) {
		for _, e := range events {
			if e.ID == i {
				return e.JSON(), nil
			}
		}
		return nil, errNotServed
	}
}

// has fails unless an event is stored with the given flags; -1: not stored.
func (s *scene) has(ev *event.Event, flags eventstore.Flags) {
	s.w.t.Helper()
	e := s.stored(ev.ID)
	switch {
	case e == nil && flags != -1:
		s.w.t.Errorf("%s %s is not stored", ev.Type, ev.ID)
	case e != nil && e.Flags != flags:
		s.w.t.Errorf("%s %s is stored with flags %d, want %d", ev.Type, ev.ID, e.Flags, flags)
	}
}

func (s *scene) isTip(want bool, ev *event.Event) {
	s.w.t.Helper()
	if got := slices.Contains(s.tips(s.room), ev.ID); got != want {
		s.w.t.Errorf("%s is a forward extremity: %v", ev.Type, got)
	}
}

func eachScene(t *testing.T, test func(t *testing.T, s *scene)) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		for _, v := range []event.RoomVersion{"1", "10", "12"} {
			t.Run("v"+string(v), func(t *testing.T) {
				s := newScene(t, open, v)
				test(t, s)
				s.check()
			})
		}
	})
}

func TestReceiveAccepted(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		ev := s.forge(s.room, message(pat, "hello"))
		s.mustPush("p", ev)
		s.has(ev, 0)
		s.isTip(true, ev)
		if e := s.stored(ev.ID); e.StreamPos <= 0 || !e.HasState {
			t.Errorf("position %d, state %v", e.StreamPos, e.HasState)
		}
		// Again: known, and nothing changes.
		before := s.row(s.room).Revision
		s.mustPush("p", ev)
		if got := s.row(s.room).Revision; got != before {
			t.Errorf("the room went from revision %d to %d", before, got)
		}
	})
}

func TestReceiveStep2Signatures(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		var ev *event.Event
		err := s.inRoom(context.Background(), s.room, func(ctx context.Context, v *roomView) error {
			b, err := v.Template(ctx, message(pat, "forged"))
			if err != nil {
				return err
			}
			ev, err = b.Build("p", testKeyID, keyOf("mallory"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if errs := s.push("p", ev); errs[ev.ID] == nil {
			t.Error("an event with a wrong signature was taken")
		}
		s.has(ev, -1)
	})
}

func TestReceiveStep3ContentHash(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		ev := s.forge(s.room, message(pat, "original"))
		raw := bytes.Replace(ev.JSON(), []byte("original"), []byte("changed!"), 1)
		changed, err := event.Parse(raw, ev.Rules)
		if err != nil {
			t.Fatal(err)
		}
		s.mustPush("p", changed)
		e := s.stored(ev.ID)
		if e == nil || string(e.Content()) != "{}" {
			t.Fatalf("the event was not redacted: %v", e)
		}
	})
}

func TestReceiveStep8AuthEvents(t *testing.T) {
	cases := []struct {
		name string
		make func(s *scene) *event.Event
	}{
		{"rule broken", func(s *scene) *event.Event {
			return s.forge(s.room, state(pat, "m.room.topic", "", `{"topic":"mine"}`))
		}},
		{"auth event that is not needed", func(s *scene) *event.Event {
			return s.forge(s.room, message(pat, "x"), by(s.auth(s.rules)...))
		}},
		{"no membership among the auth events", func(s *scene) *event.Event {
			return s.forge(s.room, message(pat, "x"), by(slices.DeleteFunc(s.auth(), func(e *event.Event) bool { return e == s.join })...))
		}},
		{"rejected auth event", func(s *scene) *event.Event {
			bad := s.forge(s.room, state(pat, "m.room.power_levels", "", `{"users":{}}`))
			if errs := s.push("p", bad); errs[bad.ID] == nil {
				s.w.t.Error("power levels were taken from somebody without power")
			}
			s.has(bad, eventstore.Rejected)
			return s.forge(s.room, message(pat, "x"), by(append(s.auth()[1:], bad)...))
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			eachScene(t, func(t *testing.T, s *scene) {
				ev := c.make(s)
				tips := s.tips(s.room)
				if errs := s.push("p", ev); !errors.Is(errs[ev.ID], merr.ErrForbidden) {
					t.Errorf("got %v, want M_FORBIDDEN", errs[ev.ID])
				}
				s.has(ev, eventstore.Rejected)
				if got := s.tips(s.room); !slices.Equal(got, tips) {
					t.Errorf("the extremities moved to %v", got)
				}
				// What refers to a rejected event can be good, and takes its place.
				next := s.forge(s.room, message(pat, "next"), on(ev))
				s.mustPush("p", next)
				s.has(next, 0)
				if got := s.tips(s.room); !slices.Equal(got, []id.Event{next.ID}) {
					t.Errorf("the extremities are %v", got)
				}
			})
		})
	}
}

// A wide state key makes an event that counts for nothing, but the graph goes on over it.
func TestReceiveStep8WideFields(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "10")
		wide := s.widened(s.forge(s.room, state(alice, "m.wide", "日", `{}`)))
		news := s.forge(s.room, message(pat, "news"), on(wide), by(s.auth()...))
		s.p.missing = func(id.Room, fedclient.MissingEvents) ([]json.RawMessage, error) {
			return []json.RawMessage{wide.JSON()}, nil
		}
		if errs := s.push("p", news); errs[news.ID] != nil || !errors.Is(errs[wide.ID], merr.ErrTooLarge) {
			t.Errorf("got %v", errs)
		}
		s.has(wide, eventstore.Rejected)
		s.has(news, 0)
		s.isTip(true, news)
		if _, err := s.trySend(s.room, state(alice, "m.wide", wide.StateKey, `{}`)); !errors.Is(err, merr.ErrTooLarge) {
			t.Errorf("a wide state key of ours: %v", err)
		}
		s.check()
	})
}

// widened gives an event of a's whose state key is "日" one of 258 bytes, which none of our
// servers would make.
func (s *scene) widened(ev *event.Event) *event.Event {
	s.w.t.Helper()
	raw := bytes.Replace(ev.JSON(), []byte(`"state_key":"日"`), []byte(`"state_key":"`+strings.Repeat("日", 86)+`"`), 1)
	wide, err := event.Parse(raw, ev.Rules)
	if err == nil {
		wide, err = wide.Sign("a", testKeyID, keyOf("a"))
	}
	if err != nil {
		s.w.t.Fatal(err)
	}
	return wide
}

func TestReceiveStep10StateBefore(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		kick := s.send(s.room, state(alice, "m.room.member", string(pat), `{"membership":"leave"}`))[0]
		ev := s.forge(s.room, message(pat, "still here"), on(kick.Event), by(s.auth()...))
		if errs := s.push("p", ev); !errors.Is(errs[ev.ID], merr.ErrForbidden) {
			t.Errorf("got %v, want M_FORBIDDEN", errs[ev.ID])
		}
		s.has(ev, eventstore.Rejected)
	})
}

func TestReceiveStep11SoftFailure(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		before := s.stored(s.tips(s.room)[0])
		ban := s.send(s.room, state(alice, "m.room.member", string(pat), `{"membership":"ban"}`))[0]
		evading := s.forge(s.room, message(pat, "evading"), on(before.Event), by(s.auth()...))
		s.mustPush("p", evading)
		s.has(evading, eventstore.SoftFailed)
		s.isTip(false, evading)
		s.isTip(true, ban.Event)
		timeline, err := s.store.Timeline(context.Background(), s.row(s.room).NID, 0, 1000, 100, false)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(timeline, func(e *eventstore.Event) bool { return e.ID == evading.ID }) {
			t.Error("a client would see the soft-failed event")
		}
		// It takes part in the graph all the same.
		both := s.forge(s.room, message(alice, "after"), on(ban.Event, evading))
		s.mustPush("a", both)
		s.has(both, 0)
		if got := s.tips(s.room); !slices.Equal(got, []id.Event{both.ID}) {
			t.Errorf("the extremities are %v", got)
		}
	})
}

func TestReceiveStep4MissingEvents(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		var chain []*event.Event
		last := s.stored(s.tips(s.room)[0]).Event
		shared := last.ID
		for i := range 6 {
			last = s.forge(s.room, message(pat, fmt.Sprint("missing ", i)), on(last), by(s.auth()...))
			chain = append(chain, last)
		}
		news := s.forge(s.room, message(pat, "news"), on(last), by(s.auth()...))
		s.p.missing = func(_ id.Room, m fedclient.MissingEvents) ([]json.RawMessage, error) {
			if !slices.Equal(m.Earliest, []id.Event{shared}) || !slices.Equal(m.Latest, []id.Event{news.ID}) {
				t.Errorf("asked for %+v", m)
			}
			var out []json.RawMessage
			for _, e := range slices.Backward(chain) {
				out = append(out, e.JSON())
			}
			return out, nil
		}
		s.mustPush("p", news)
		if !slices.Equal(s.p.calls, []string{"get_missing_events"}) {
			t.Errorf("asked %v", s.p.calls)
		}
		pos := s.stored(shared).StreamPos
		for _, e := range append(chain, news) {
			s.has(e, 0)
			if got := s.stored(e.ID).StreamPos; got != pos+1 {
				t.Errorf("%s is at %d, after %d", e.ID, got, pos)
			} else {
				pos = got
			}
		}
	})
}

// An event whose parents nobody shows is dropped, and taken when they have come.
func TestReceiveStep4Withheld(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		first := s.forge(s.room, message(pat, "A"))
		second := s.forge(s.room, message(pat, "B"), on(first), by(s.auth()...))
		if errs := s.push("p", second); !errors.Is(errs[second.ID], merr.ErrForbidden) {
			t.Errorf("got %v", errs[second.ID])
		}
		s.has(second, -1)
		s.mustPush("p", first)
		s.mustPush("p", second)
		s.has(second, 0)
	})
}

func TestReceiveStep4IgnoresWhatIsNotValid(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		foreign := s.forge(s.room, message(pat, "elsewhere"), func(b *event.Builder) {
			b.RoomID = "!elsewhere:a"
			if b.Rules.RoomIDIsCreateHash {
				b.RoomID = id.Room("!" + strings.Repeat("A", 43))
			}
		})
		news := s.forge(s.room, message(pat, "news"), on(foreign), by(s.auth()...))
		s.p.missing = func(id.Room, fedclient.MissingEvents) ([]json.RawMessage, error) {
			return []json.RawMessage{foreign.JSON(), json.RawMessage(`{"type":1}`), json.RawMessage(`{}`)}, nil
		}
		if errs := s.push("p", news); errs[news.ID] == nil {
			t.Error("an event was taken whose parent is of another room")
		}
		s.has(foreign, -1)
	})
}

func TestReceiveStep5StateAtAGap(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		start := s.stored(s.tips(s.room)[0]).Event
		// pat's server has a long history of which it shows only the end. In it alice has changed
		// the topic.
		topic := s.forge(s.room, state(alice, "m.room.topic", "", `{"topic":"in the gap"}`), on(start))
		hidden := s.forge(s.room, message(pat, "in the gap"), on(topic), by(s.auth()...))
		shown := s.forge(s.room, message(pat, "after the gap"), on(hidden), by(s.auth()...))
		news := s.forge(s.room, message(pat, "news"), on(shown), by(s.auth()...))
		s.p.missing = func(id.Room, fedclient.MissingEvents) ([]json.RawMessage, error) {
			return []json.RawMessage{shown.JSON()}, nil
		}
		s.p.stateIDs = func(_ id.Room, at id.Event) (*fedclient.StateIDs, error) {
			if at != hidden.ID {
				t.Errorf("asked for the state at %s", at)
			}
			out := &fedclient.StateIDs{State: []id.Event{topic.ID}}
			for _, e := range s.current(s.room) {
				out.State = append(out.State, e)
			}
			return out, nil
		}
		s.serve(topic, hidden)
		s.mustPush("p", news)
		s.has(topic, eventstore.Outlier)
		s.has(hidden, eventstore.Outlier)
		s.has(shown, 0)
		s.has(news, 0)
		if got := s.stateEvent(s.room, "m.room.topic", ""); got.ID != topic.ID {
			t.Errorf("the topic is %s", got.ID)
		}
		ends, err := s.store.BackwardExtremities(context.Background(), s.row(s.room).NID)
		if err != nil || len(ends) != 1 || ends[0].Missing != hidden.ID {
			t.Errorf("backward extremities %v, %v", ends, err)
		}
		s.isTip(true, start)
		s.isTip(true, news)
		// When the gap is filled later, its events find their place and are no extremities.
		s.mustPush("p", topic)
		s.mustPush("p", hidden)
		s.has(topic, 0)
		s.has(hidden, 0)
		s.isTip(false, hidden)
		ends, err = s.store.BackwardExtremities(context.Background(), s.row(s.room).NID)
		if err != nil || len(ends) != 0 {
			t.Errorf("backward extremities %v, %v", ends, err)
		}
	})
}

// profiles makes changes of pat's profile, each the only parent, and an auth event, of the next.
func (s *scene) profiles(n int) []*event.Event {
	out := []*event.Event{s.join}
	for i := range n {
		last := out[i]
		auth := append(s.authBut(s.join), s.rules, last)
		out = append(out, s.forge(s.room, state(pat, "m.room.member", string(pat), fmt.Sprintf(`{"membership":"join","displayname":"Pat %d"}`, i)), on(last), by(auth...)))
	}
	return out[1:]
}

// stateOf is a state in which a member event of pat's stands in the place of the one that is known.
func (s *scene) stateOf(member *event.Event) []id.Event {
	out := []id.Event{member.ID}
	for _, e := range s.current(s.room) {
		if e != s.join.ID {
			out = append(out, e)
		}
	}
	return out
}

// The auth events of what follows a gap can go far back behind it. They come with the state at
// the gap; following them one by one is neither needed nor enough.
func TestReceiveStep5LongAuthChainAtAGap(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		chain := s.profiles(fetchRounds + 50)
		news, shown := chain[len(chain)-1], chain[len(chain)-4:len(chain)-1]
		behind := chain[:len(chain)-4]
		s.p.missing = func(id.Room, fedclient.MissingEvents) ([]json.RawMessage, error) {
			var out []json.RawMessage
			for _, e := range shown {
				out = append(out, e.JSON())
			}
			return out, nil
		}
		s.p.stateIDs = func(_ id.Room, at id.Event) (*fedclient.StateIDs, error) {
			if at != behind[len(behind)-1].ID {
				t.Errorf("asked for the state at %s", at)
			}
			out := &fedclient.StateIDs{State: s.stateOf(behind[len(behind)-2]), AuthChain: []id.Event{s.join.ID}}
			for _, e := range behind[:len(behind)-2] {
				out.AuthChain = append(out.AuthChain, e.ID)
			}
			return out, nil
		}
		s.serve(append(slices.Clone(behind), s.create, s.levels, s.rules, s.join, s.stateEvent(s.room, "m.room.member", string(alice)),
			s.stateEvent(s.room, "m.room.history_visibility", ""))...)
		s.mustPush("p", news)
		if !slices.Equal(s.p.calls, []string{"get_missing_events", "state_ids", "state"}) {
			t.Errorf("asked %v", s.p.calls)
		}
		s.has(behind[0], eventstore.Outlier)
		s.has(news, 0)
		if got := s.stateEvent(s.room, "m.room.member", string(pat)); got.ID != news.ID {
			t.Errorf("pat's membership is %s", got.ID)
		}
	})
}

// Of an auth chain with a hole, nothing behind the hole is taken, however much of it is shown.
func TestReceiveStep5HoleInAnAuthChain(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		chain := s.profiles(5)
		auth := append(s.authBut(s.join), chain[4])
		hidden := s.forge(s.room, message(pat, "in the gap"), on(chain[4]), by(auth...))
		shown := s.forge(s.room, message(pat, "after the gap"), on(hidden), by(auth...))
		news := s.forge(s.room, message(pat, "news"), on(shown), by(auth...))
		s.p.missing = func(id.Room, fedclient.MissingEvents) ([]json.RawMessage, error) {
			return []json.RawMessage{shown.JSON()}, nil
		}
		s.p.stateIDs = func(id.Room, id.Event) (*fedclient.StateIDs, error) {
			out := &fedclient.StateIDs{State: s.stateOf(chain[4]), AuthChain: []id.Event{s.join.ID}}
			for _, e := range chain[:4] {
				out.AuthChain = append(out.AuthChain, e.ID)
			}
			return out, nil
		}
		s.serve(chain[0], chain[2], chain[3], chain[4], hidden)
		if errs := s.push("p", news); errs[news.ID] == nil {
			t.Error("an event was taken whose auth chain has a hole")
		}
		s.has(chain[0], eventstore.Outlier)
		for _, e := range []*event.Event{chain[1], chain[2], chain[3], chain[4], hidden, shown, news} {
			s.has(e, -1)
		}
		// The room goes on without them.
		next := s.forge(s.room, message(pat, "elsewhere"), on(s.join), by(s.auth()...))
		s.mustPush("p", next)
		s.isTip(true, next)
		if got := s.stateEvent(s.room, "m.room.member", string(pat)); got.ID != s.join.ID {
			t.Errorf("pat's membership is %s", got.ID)
		}
	})
}

func TestReceiveStep6MissingAuthEvents(t *testing.T) {
	// A join of pat's that the server has not seen, on which an event depends.
	unseen := func(s *scene, content string) *event.Event {
		return s.forge(s.room, state(pat, "m.room.member", string(pat), content))
	}
	t.Run("one by one", func(t *testing.T) {
		eachScene(t, func(t *testing.T, s *scene) {
			profile := unseen(s, `{"membership":"join","displayname":"Pat"}`)
			s.serve(profile)
			ev := s.forge(s.room, message(pat, "x"), by(append(s.auth()[2:], s.levels, profile)...))
			s.mustPush("p", ev)
			s.has(profile, eventstore.Outlier)
			s.has(ev, 0)
		})
	})
	t.Run("auth chain", func(t *testing.T) {
		eachScene(t, func(t *testing.T, s *scene) {
			profile := unseen(s, `{"membership":"join","displayname":"Pat"}`)
			s.p.auth = func(id.Room, id.Event) ([]json.RawMessage, error) {
				return []json.RawMessage{profile.JSON(), s.levels.JSON(), s.create.JSON()}, nil
			}
			ev := s.forge(s.room, message(pat, "x"), by(append(s.auth()[2:], s.levels, profile)...))
			s.mustPush("p", ev)
			s.has(profile, eventstore.Outlier)
			s.has(ev, 0)
		})
	})
	t.Run("not to be had", func(t *testing.T) {
		eachScene(t, func(t *testing.T, s *scene) {
			profile := unseen(s, `{"membership":"join","displayname":"Pat"}`)
			ev := s.forge(s.room, message(pat, "x"), by(append(s.auth()[2:], s.levels, profile)...))
			if errs := s.push("p", ev); errs[ev.ID] == nil {
				t.Error("an event was taken without its auth events")
			}
			s.has(ev, -1)
		})
	})
	t.Run("rejected", func(t *testing.T) {
		eachScene(t, func(t *testing.T, s *scene) {
			bad := s.forge(s.room, state(pat, "m.room.power_levels", "", `{"users":{}}`))
			s.push("p", bad)
			outlier := s.forge(s.room, state(pat, "m.room.member", string(pat), `{"membership":"join","n":1}`),
				by(append(slices.DeleteFunc(s.auth(s.rules), func(e *event.Event) bool { return e == s.levels }), bad)...))
			s.serve(outlier)
			ev := s.forge(s.room, message(pat, "x"), by(append(s.auth()[2:], s.levels, outlier)...))
			if errs := s.push("p", ev); errs[ev.ID] == nil {
				t.Error("an event was taken that rests on a rejected one")
			}
			s.has(outlier, eventstore.Outlier|eventstore.Rejected)
			s.has(ev, eventstore.Rejected)
			// The sentinel that follows is good.
			next := s.forge(s.room, message(pat, "sentinel"), on(ev))
			s.mustPush("p", next)
		})
	})
}

func TestReceiveStep12PolicyServer(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		s := newScene(t, open, "11")
		key := canonical.EncodeBase64(keyOf("policy").Public().(ed25519.PublicKey))
		s.send(s.room, state(alice, "m.room.policy", "", fmt.Sprintf(`{"via":"p","public_keys":{"ed25519":%q}}`, key)))
		unsigned := s.forge(s.room, message(pat, "spam"))
		s.mustPush("p", unsigned)
		s.has(unsigned, eventstore.SoftFailed)
		signed, err := s.forge(s.room, message(pat, "fine")).Sign("p", policyKeyID, keyOf("policy"))
		if err != nil {
			t.Fatal(err)
		}
		s.mustPush("p", signed)
		s.has(signed, 0)
		// One that lacks the signature gets it when the policy server gives it.
		s.p.policy = func(raw json.RawMessage) (map[id.Server]map[id.KeyID]string, error) {
			ev, err := event.Parse(raw, s.create.Rules)
			if err != nil {
				return nil, err
			}
			out, err := ev.Sign("p", policyKeyID, keyOf("policy"))
			if err != nil {
				return nil, err
			}
			sig := canonical.Signature(canonical.Get(out.JSON(), "signatures"), "p", policyKeyID)
			return map[id.Server]map[id.KeyID]string{"p": {policyKeyID: canonical.EncodeBase64(sig)}}, nil
		}
		asked := s.forge(s.room, message(pat, "asked"))
		s.mustPush("p", asked)
		s.has(asked, 0)
		// So do events of ours.
		ours := s.send(s.room, message(alice, "mine"), message(alice, "mine too"))
		for _, e := range ours {
			if got := canonical.Signature(canonical.Get(s.stored(e.ID).JSON(), "signatures"), "p", policyKeyID); got == nil {
				t.Error("an event of ours is not signed by the policy server")
			}
		}
		s.p.policy = nil
		if _, err := s.trySend(s.room, message(alice, "refused")); err == nil {
			t.Error("an event of ours was sent without the policy server")
		}
		// Nobody needs its leave to turn it off.
		s.send(s.room, state(alice, "m.room.policy", "", `{}`))
		s.send(s.room, message(alice, "free"))
		s.check()
	})
}

func TestRedactions(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		redactionOf := func(target *event.Event, by id.User) eventSpec {
			return eventSpec{Type: "m.room.redaction", Sender: by, Redacts: target.ID, Content: json.RawMessage(`{"reason":"x"}`)}
		}
		for _, v := range []event.RoomVersion{"1", "9", "11", "12"} {
			t.Run("v"+string(v), func(t *testing.T) {
				s := newScene(t, open, v)
				redacted := func(ev *event.Event, by id.Event) {
					t.Helper()
					e := s.stored(ev.ID)
					if by == "" {
						if e.RedactedBy != 0 || len(e.Content()) < 3 {
							t.Errorf("%s is redacted", ev.Content())
						}
						return
					}
					if e.RedactedBy != s.stored(by).NID || string(e.Content()) != "{}" {
						t.Errorf("%s is not redacted", e.Content())
					}
				}
				// After its target, by power.
				first := s.send(s.room, message(alice, "one"))[0]
				red := s.send(s.room, redactionOf(first.Event, alice))[0]
				redacted(first.Event, red.ID)
				// By the sender's own server.
				own := s.forge(s.room, message(pat, "two"))
				s.mustPush("p", own)
				ownRed := s.forge(s.room, redactionOf(own, pat))
				s.mustPush("p", ownRed)
				redacted(own, ownRed.ID)
				// By neither: the event is accepted (rejected in version 1) and does nothing.
				third := s.send(s.room, message(alice, "three"))[0]
				no := s.forge(s.room, redactionOf(third.Event, pat))
				s.push("p", no)
				redacted(third.Event, "")
				if v != "1" {
					s.has(no, 0)
				}
				// Before its target.
				late := s.forge(s.room, message(pat, "late"))
				early := s.forge(s.room, redactionOf(late, pat))
				s.mustPush("p", early)
				s.mustPush("p", late)
				redacted(late, early.ID)
				// By a moderator here, of what only others have.
				unseen := s.forge(s.room, message(pat, "unseen"))
				ours, err := s.SendEvent(context.Background(), api.SendEvent{Room: s.room, Sender: alice, Type: "m.room.redaction",
					Redacts: unseen.ID, Content: json.RawMessage(`{}`)})
				if err != nil {
					t.Fatal(err)
				}
				s.mustPush("p", unseen)
				redacted(unseen, ours)
				s.check()
			})
		}
	})
}

// An event that makes the state too contradictory to be resolved keeps none of those that come with it out.
func TestReceiveTooManyConflicts(t *testing.T) {
	eachScene(t, func(t *testing.T, s *scene) {
		s.limits.Conflicts = 2
		start := s.stored(s.tips(s.room)[0]).Event
		branch := func(n, first int) []*event.Event {
			out := []*event.Event{start}
			for i := range n {
				out = append(out, s.forge(s.room, state(alice, "org.test", fmt.Sprint(first+i), `{}`), on(out[i])))
			}
			return out[1:]
		}
		good, many := branch(2, 0), branch(2, 10)
		after := s.forge(s.room, message(pat, "after"), on(good[1]), by(s.auth()...))
		errs := s.push("p", good[0], good[1], many[0], many[1], after)
		for _, e := range []*event.Event{good[0], good[1], after} {
			if errs[e.ID] != nil {
				t.Errorf("%s is refused: %v", e.ID, errs[e.ID])
			}
			s.has(e, 0)
		}
		s.isTip(true, after)
		if errs[many[0].ID] == nil && errs[many[1].ID] == nil {
			t.Error("what contradicts too much was taken without a word")
		}
	})
}
