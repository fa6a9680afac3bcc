package eventauth

import (
	"crypto/ed25519"
	"fmt"
	"testing"

	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
)

// Users of the test rooms: alice created the room and is joined, bob is joined and
// has power level 50, carol is joined and has none, dave is not in the room, erin
// is banned. frank is joined and of another server.
const (
	alice = "@alice:a.example"
	bob   = "@bob:a.example"
	carol = "@carol:a.example"
	dave  = "@dave:a.example"
	erin  = "@erin:a.example"
	frank = "@frank:f.example"
)

type content = map[string]any

// world is a room in which a rule is tried.
type world struct {
	t       testing.TB
	r       *event.Rules
	n       int
	room    id.Room
	create  *event.Event
	state   MapState
	checker *Checker
}

func newWorld(t testing.TB, r *event.Rules) *world {
	w := &world{t: t, r: r, state: MapState{}, room: "!room:a.example", checker: NewChecker()}
	if r.RoomIDIsCreateHash {
		w.room = "!create"
	}
	w.setCreate(nil)
	w.set(w.member(alice, alice, join))
	w.setLevels(nil)
	w.set(w.event(TypeJoinRules, alice, "", content{"join_rule": "invite"}))
	w.set(w.member(bob, bob, join), w.member(carol, carol, join), w.member(alice, erin, ban), w.member(frank, frank, join))
	return w
}

// createEvent makes a create event. extra is added to its content.
func (w *world) createEvent(extra content, fields ...content) *event.Event {
	c := content{"room_version": string(w.r.Version)}
	if w.r.CreatorInContent {
		c["creator"] = alice
	}
	f := content{"id": "$create", "prev_events": []any{}}
	if w.r.RoomIDIsCreateHash {
		f["room_id"] = nil
	} else {
		f["id"] = "$create:a.example"
	}
	return w.event(TypeCreate, alice, "", merge(c, extra), append([]content{f}, fields...)...)
}

func (w *world) setCreate(extra content) {
	w.create = w.createEvent(extra)
	w.set(w.create)
}

// levels is the content of the room's power levels with changes; nil removes.
func (w *world) levels(changes content) content {
	users := content{bob: 50}
	if !w.r.CreatorsPrivileged {
		users[alice] = 100
	}
	return merge(content{"users": users}, changes)
}

func (w *world) setLevels(changes content) {
	w.set(w.event(TypePowerLevels, alice, "", w.levels(changes)))
}

func (w *world) setJoinRule(rule string) {
	w.set(w.event(TypeJoinRules, alice, "", content{"join_rule": rule}))
}

func (w *world) set(events ...*event.Event) { w.state.Put(events...) }

func (w *world) without(typ, key string) { delete(w.state, Key{typ, key}) }

// message makes an event that is no state event.
func (w *world) message(typ, sender string, c content, fields ...content) *event.Event {
	return w.event(typ, sender, "", c, append(fields, content{"state_key": nil})...)
}

func (w *world) member(sender, target, membership string, fields ...content) *event.Event {
	return w.memberWith(sender, target, content{"membership": membership}, fields...)
}

func (w *world) memberWith(sender, target string, c content, fields ...content) *event.Event {
	return w.event(TypeMember, sender, target, c, fields...)
}

// event makes a state event. fields are added to it; a nil value takes one away.
func (w *world) event(typ, sender, stateKey string, c content, fields ...content) *event.Event {
	w.t.Helper()
	w.n++
	obj := content{
		"type": typ, "sender": sender, "state_key": stateKey, "content": c, "room_id": string(w.room),
		"depth": w.n, "origin_server_ts": 1000 + w.n, "auth_events": []any{}, "prev_events": w.parents("$p1:a.example", "$p2:a.example"),
		"hashes": content{}, "signatures": content{},
	}
	for _, f := range fields {
		obj = merge(obj, f)
	}
	eventID := id.Event(fmt.Sprintf("$e%d:a.example", w.n))
	if s, ok := obj["id"].(string); ok {
		eventID = id.Event(s)
		delete(obj, "id")
	}
	if w.r.EventIDFormat == event.EventIDInBody {
		obj["event_id"] = string(eventID)
	}
	raw, err := canonical.Marshal(obj)
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := event.ParseStored(raw, eventID, w.r)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// parents writes prev_events as the version has them.
func (w *world) parents(ids ...string) []any {
	list := []any{}
	for _, i := range ids {
		if w.r.EventFormat == event.FormatPairs {
			list = append(list, []any{i, content{"sha256": "x"}})
		} else {
			list = append(list, i)
		}
	}
	return list
}

func merge(a, b content) content {
	out := content{}
	for k, v := range a {
		out[k] = v
	}
	for k, v := range b {
		if v == nil {
			delete(out, k)
		} else {
			out[k] = v
		}
	}
	return out
}

func (w *world) try(e *event.Event) verdict { return w.checker.decide(e, w.state) }

// thirdParty puts a third-party invite by the sender into the room and makes the
// member event that redeems it for dave. change may spoil what identity servers
// signed, before it is signed.
func (w *world) thirdParty(sender string, inList bool, change content) *event.Event {
	w.t.Helper()
	priv := testKey(1)
	pub := canonical.EncodeBase64(priv.Public().(ed25519.PublicKey))
	c := content{"display_name": "d", "public_key": pub}
	if inList {
		other := canonical.EncodeBase64(testKey(9).Public().(ed25519.PublicKey))
		c = content{"display_name": "d", "public_key": other, "public_keys": []any{content{"public_key": other}, content{"public_key": pub}}}
	}
	w.set(w.event(TypeThirdPartyInvite, alice, "token", c))
	raw, err := canonical.Marshal(merge(content{"mxid": dave, "token": "token"}, change))
	if err != nil {
		w.t.Fatal(err)
	}
	raw, err = canonical.SignJSON(raw, "id.example", "ed25519:0", priv)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.memberWith(sender, dave, content{"membership": invite,
		"third_party_invite": content{"display_name": "d", "signed": rawJSON(raw)}})
}

type rawJSON []byte

func (r rawJSON) MarshalJSON() ([]byte, error) { return r, nil }

func testKey(n byte) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = n
	return ed25519.NewKeyFromSeed(seed)
}

// signedBy is the signatures field of an event that a server signed. The rules
// only look whether there is one.
func signedBy(server string) content {
	return content{"signatures": content{server: content{"ed25519:1": "c2lnbmF0dXJl"}}}
}

// eachVersion runs a test for every room version.
func eachVersion(t *testing.T, fn func(t *testing.T, r *event.Rules)) {
	for _, v := range event.Versions() {
		r, err := event.Version(v)
		if err != nil {
			t.Fatal(err)
		}
		t.Run("v"+string(v), func(t *testing.T) { fn(t, r) })
	}
}
