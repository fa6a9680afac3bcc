package keyring

import (
	"context"
	"fmt"
	"testing"
	"time"

	"weft/matrix/event"
	"weft/matrix/id"
)

func message(t *testing.T, r *remote, version event.RoomVersion, ts time.Time) *event.Event {
	t.Helper()
	rules, err := event.Version(version)
	if err != nil {
		t.Fatal(err)
	}
	b := event.Builder{
		Rules: rules, RoomID: "!room:a.example", Sender: id.User("@u:" + string(r.name)), Type: "m.room.message",
		Content: []byte(`{"body":"x"}`), PrevEvents: []id.Event{"$a"}, AuthEvents: []id.Event{"$b"},
		Depth: 2, OriginServerTS: ts.UnixMilli(),
	}
	if version == "1" {
		b.PrevEvents, b.AuthEvents = []id.Event{}, []id.Event{}
	}
	e, err := b.Build(r.name, r.key, r.priv)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestFetchFor(t *testing.T) {
	n := newNetwork(t, "a.example", "b.example", "dead.example")
	a, b, dead := n.servers["a.example"], n.servers["b.example"], n.servers["dead.example"]
	n.down["dead.example"] = true
	now := n.clock()
	oldEvent := message(t, a, "10", now.Add(-48*time.Hour))
	formerKeyLate := message(t, a, "10", now.Add(-time.Hour))
	formerKeyLateV4 := message(t, a, "4", now.Add(-time.Hour))
	a.rotate(now.Add(-24 * time.Hour))
	future := message(t, b, "10", now.Add(30*24*time.Hour))

	cases := []struct {
		name string
		e    *event.Event
		ok   bool
	}{
		{"current key", message(t, a, "10", now), true},
		{"another server", message(t, b, "10", now), true},
		{"old key, before it expired", oldEvent, true},
		{"old key, after it expired", formerKeyLate, false},
		{"old key, after it expired, in a room version without validity", formerKeyLateV4, true},
		{"beyond the key's validity", future, false},
		{"server down", message(t, dead, "10", now), false},
	}
	var all []*event.Event
	for _, c := range cases {
		all = append(all, c.e)
	}
	k := n.ring(nil)
	keys, err := k.FetchFor(context.Background(), all)
	if err == nil {
		t.Fatal("nothing is said about the server that is down")
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if err := c.e.VerifySignatures(keys); (err == nil) != c.ok {
				t.Fatalf("VerifySignatures = %v, want ok=%v", err, c.ok)
			}
			if err := c.e.VerifySignatures(k.KeyFunc()); (err == nil) != c.ok {
				t.Fatalf("VerifySignatures by the cache = %v, want ok=%v", err, c.ok)
			}
		})
	}
	for _, s := range []id.Server{"a.example", "b.example", "dead.example"} {
		if got := n.asked(s); got != 1 {
			t.Errorf("%s was asked %d times, want once", s, got)
		}
	}
	if _, ok := k.KeyFunc()("never.example", "ed25519:k1", 0); ok {
		t.Fatal("a key of a server never heard of")
	}
}

// Joining an old room: very many servers, most of them gone.
func TestFetchForManyServersAsksTheNotaryFirst(t *testing.T) {
	const count = notariesFirst + notaryBatch + 20
	names := []id.Server{"notary.example"}
	for i := range count {
		names = append(names, id.Server(fmt.Sprintf("s%d.example", i)))
	}
	n := newNetwork(t, names...)
	var events []*event.Event
	for _, name := range names[1:] {
		r := n.servers[name]
		n.down[name] = true
		n.notarised[name] = r.object()
		events = append(events, message(t, r, "10", n.clock()))
	}
	// One that only the server itself can give.
	delete(n.notarised, "s0.example")
	n.down["s0.example"] = false

	k := n.ring(func(c *Config) { c.Notaries = []Notary{{Server: "notary.example"}} })
	keys, err := k.FetchFor(context.Background(), events)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if err := e.VerifySignatures(keys); err != nil {
			t.Fatal(err)
		}
	}
	if len(n.queries) != 2 {
		t.Fatalf("%d requests to the notary, want 2", len(n.queries))
	}
	for s, c := range n.direct {
		if s != "s0.example" && s != "notary.example" && c > 0 {
			t.Fatalf("%s was asked although the notary knew its keys", s)
		}
	}
}
