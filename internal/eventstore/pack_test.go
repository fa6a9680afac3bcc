package eventstore

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"weft/internal/eventstore/sample"
	"weft/internal/nid"
	"weft/matrix/event"
	"weft/matrix/id"
)

// numbered gives events numbers, and says what EncodeEvent must be told.
type numbered struct {
	nids    map[id.Event]nid.Event
	ids     map[nid.Event]id.Event
	parents Parents
}

func newNumbered() *numbered {
	n := &numbered{nids: make(map[id.Event]nid.Event), ids: make(map[nid.Event]id.Event)}
	n.parents = Parents{Auth: n.nids, Previous: n.nids}
	return n
}

// row gives an event a number of its own, and auth events those that they have.
func (n *numbered) row(ev *event.Event) *Event {
	e := &Event{Event: ev, NID: nid.Event(len(n.nids)*3 + 1000)}
	n.nids[ev.ID], n.ids[e.NID] = e.NID, ev.ID
	for _, a := range ev.AuthEvents {
		if i := n.nids[a]; i != 0 {
			e.AuthNIDs = append(e.AuthNIDs, i)
		}
	}
	slices.Sort(e.AuthNIDs)
	e.AuthNIDs = slices.Compact(e.AuthNIDs)
	if ev.Type == "m.room.create" {
		e.TypeNID = nid.TypeCreate
	}
	return e
}

func (n *numbered) read(c *Codec, stored []byte, e *Event) ([]byte, error) {
	p, err := c.open(stored, e.NID)
	if err != nil {
		return nil, err
	}
	return p.unpack(e.RoomID, e.AuthNIDs, func(i nid.Event) (id.Event, bool) {
		t, ok := n.ids[i]
		return t, ok
	})
}

// Every event of every room version comes back as it was, with and without known parents, and
// what can be computed is not stored.
func TestEventsArePackedAndReadBack(t *testing.T) {
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range event.Versions() {
		r, err := sample.NewRoom(1_000_000, version, 6)
		if err != nil {
			t.Fatal(err)
		}
		events, err := r.Start()
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			e, err := r.Message()
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, e)
		}
		n := newNumbered()
		var alone, together int
		for _, ev := range events {
			e := n.row(ev)
			for known, parents := range map[bool]Parents{false: {}, true: n.parents} {
				stored := c.EncodeEvent(e, parents)
				got, err := n.read(c, stored, e)
				if err != nil || !bytes.Equal(got, ev.JSON()) {
					t.Fatalf("version %s: %s came back as %s (%v)", version, ev.JSON(), got, err)
				}
				if known {
					together += len(stored)
				} else {
					alone += len(stored)
				}
			}
		}
		t.Logf("version %s: %d bytes each without known parents, %d with", version, alone/len(events), together/len(events))
		if pairs := events[0].Rules.EventFormat == event.FormatPairs; !pairs && together > alone*4/5 {
			t.Errorf("version %s: known parents save too little: %d bytes, %d without", version, together/len(events), alone/len(events))
		}
	}
}

// What is unusual in an event must not be lost with the packing.
func TestOddEventsComeBack(t *testing.T) {
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	rules, err := event.Version("11")
	if err != nil {
		t.Fatal(err)
	}
	hash := func(seed uint64) string {
		rng := rand.New(rand.NewPCG(seed, 1))
		b := make([]byte, 32)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	a, b := hash(1), hash(2)
	const form = `{"auth_events":%s,"content":%s,"depth":3,"hashes":%s,"origin_server_ts":5,"prev_events":%s,"room_id":"!r:x","sender":"@u:x","signatures":{},"type":"t"}`
	cases := map[string]string{
		"wrong hash":            fmt.Sprintf(form, `[]`, `{}`, `{"sha256":"`+strings.Repeat("A", 43)+`"}`, `[]`),
		"two hashes":            fmt.Sprintf(form, `[]`, `{}`, `{"md5":"x","sha256":"`+strings.Repeat("A", 43)+`"}`, `[]`),
		"no hash":               fmt.Sprintf(form, `[]`, `{}`, `{}`, `[]`),
		"parents twice":         fmt.Sprintf(form, `["$`+a+`","$`+a+`"]`, `{}`, `{}`, `["$`+b+`","$`+b+`"]`),
		"unknown parent":        fmt.Sprintf(form, `["$`+a+`","$nobody"]`, `{}`, `{}`, `["$`+b+`","$nobody"]`),
		"the room in content":   fmt.Sprintf(form, `[]`, `{"room_id":"!r:x"}`, `{}`, `[]`),
		"parents in content":    fmt.Sprintf(form, `["$`+a+`"]`, `{"prev_events":["$`+b+`"]}`, `{}`, `["$`+b+`"]`),
		"the same ID again":     fmt.Sprintf(form, `[]`, `{"a":"$`+a+`","b":"$`+a+`","c":"$`+b+`"}`, `{}`, `[]`),
		"a hash that is not":    fmt.Sprintf(form, `[]`, `{"a":"$`+a[:42]+`9"}`, `{}`, `[]`), // its last bits are not zero
		"a run of odd length":   fmt.Sprintf(form, `[]`, `{"a":"`+a+a[:2]+`"}`, `{}`, `[]`),
		"both alphabets":        fmt.Sprintf(form, `[]`, `{"a":"`+a+`-/`+b+`"}`, `{}`, `[]`),
		"no base64":             fmt.Sprintf(form, `[]`, `{"a":"`+strings.Repeat("ha", 500)+`"}`, `{}`, `[]`),
		"control characters":    fmt.Sprintf(form, `[]`, `{"a":"\u0001\u0007\n"}`, `{}`, `[]`),
		"many different hashes": fmt.Sprintf(form, `[]`, `{"a":["`+hashes(hash, 300)+`"]}`, `{}`, `[]`),
	}
	for name, json := range cases {
		ev, err := event.ParseStored([]byte(json), "$own", rules)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		n := newNumbered()
		n.nids[id.Event("$"+a)], n.ids[7] = 7, id.Event("$"+a)
		n.nids[id.Event("$"+b)], n.ids[9] = 9, id.Event("$"+b)
		e := n.row(ev)
		for _, parents := range []Parents{{}, n.parents} {
			stored := c.EncodeEvent(e, parents)
			if got, err := n.read(c, stored, e); err != nil || string(got) != json {
				t.Errorf("%s: %s came back as %s (%v)", name, json, got, err)
			}
			if len(stored) > len(json)+1 {
				t.Errorf("%s: %d bytes became %d", name, len(json), len(stored))
			}
		}
	}
}

func hashes(hash func(uint64) string, n int) string {
	var list []string
	for range 2 {
		for i := range n {
			list = append(list, hash(uint64(i)))
		}
	}
	return strings.Join(list, `","`)
}

// Nobody but the row's own parents may be needed to read an event: a rejected one may name those
// of other rooms.
func TestARejectedEventStandsForItself(t *testing.T) {
	r, err := sample.NewRoom(4, "11", 2)
	if err != nil {
		t.Fatal(err)
	}
	events, err := r.Start()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	n := newNumbered()
	var last *Event
	for _, ev := range events {
		last = n.row(ev)
	}
	last.Flags = Rejected
	p, err := c.open(c.EncodeEvent(last, n.parents), last.NID)
	if err != nil || len(p.auth) != 0 || len(p.previous) == 0 {
		t.Errorf("auth events by number %v, previous ones %v (%v)", p.auth, p.previous, err)
	}
}

// A parent that is gone is an error, not another event.
func TestAMissingParentIsAnError(t *testing.T) {
	r, err := sample.NewRoom(5, "12", 2)
	if err != nil {
		t.Fatal(err)
	}
	events, err := r.Start()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	n := newNumbered()
	var last *Event
	for _, ev := range events {
		last = n.row(ev)
	}
	stored := c.EncodeEvent(last, n.parents)
	delete(n.ids, n.nids[last.PrevEvents[0]])
	if got, err := n.read(c, stored, last); err == nil {
		t.Errorf("read as %s", got)
	}
}
