package sample

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"

	"weft/matrix/event"
	"weft/matrix/id"
)

// Room makes the events of one room.
type Room struct {
	rng    *rand.Rand
	rules  *event.Rules
	id     id.Room
	users  []user
	tip    *event.Event
	auth   []id.Event // create (before version 12), power levels, join rules
	joins  map[id.User]id.Event
	sent   []id.Event
	now    int64
	depth  int64
	megolm map[id.User]string // session IDs
}

type user struct {
	id   id.User
	name string
	key  ed25519.PrivateKey
	kid  id.KeyID
	lang []string
}

// NewRoom makes a room with its first events (Start) and members still to come.
func NewRoom(seed uint64, version event.RoomVersion, members int) (*Room, error) {
	rules, err := event.Version(version)
	if err != nil {
		return nil, err
	}
	r := &Room{
		rng: rand.New(rand.NewPCG(seed, 77)), rules: rules, joins: make(map[id.User]id.Event), megolm: make(map[id.User]string),
		now: 1_600_000_000_000 + int64(seed%97)*2_592_000_000,
	}
	r.users = make([]user, max(members, 1))
	for i := range r.users {
		r.users[i] = r.user()
	}
	if !rules.RoomIDIsCreateHash {
		r.id = id.Room("!" + r.letters(18) + ":" + string(r.users[0].id.Server()))
	}
	return r, nil
}

func (r *Room) pick(list []string) string { return list[r.rng.IntN(len(list))] }

func (r *Room) letters(n int) string {
	const set = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	b := make([]byte, n)
	for i := range b {
		b[i] = set[r.rng.IntN(len(set))]
	}
	return string(b)
}

func (r *Room) base64(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.rng.Uint32())
	}
	return base64.RawStdEncoding.EncodeToString(b)
}

func (r *Room) user() user {
	var seed [ed25519.SeedSize]byte
	for i := range seed {
		seed[i] = byte(r.rng.Uint32())
	}
	name := r.pick(firstNames())
	server := r.pick(servers())
	if r.rng.IntN(3) == 0 {
		server = strings.ToLower(r.letters(6)) + "." + r.pick([]string{"com", "org", "net", "de", "fr", "chat", "im", "io", "dev"})
	}
	kid := "a_" + r.letters(4)
	if r.rng.IntN(3) == 0 {
		kid = r.pick([]string{"auto", "1", "key1"})
	}
	return user{
		id:   id.User(fmt.Sprintf("@%s%d:%s", strings.ToLower(name), r.rng.IntN(100), server)),
		name: name, key: ed25519.NewKeyFromSeed(seed[:]), kid: id.KeyID("ed25519:" + kid),
		lang: sentences()[r.rng.IntN(len(sentences()))],
	}
}

// build makes the next event of the room.
func (r *Room) build(by user, typ string, stateKey *string, content any, redacts id.Event) (*event.Event, error) {
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	r.now += int64(r.rng.IntN(100_000) + 1)
	r.depth++
	auth := append([]id.Event(nil), r.auth...)
	if j, ok := r.joins[by.id]; ok {
		auth = append(auth, j)
	}
	b := event.Builder{
		Rules: r.rules, RoomID: r.id, Sender: by.id, Type: typ, StateKey: stateKey, Content: raw, Redacts: redacts,
		PrevEvents: []id.Event{}, AuthEvents: auth, Depth: r.depth, OriginServerTS: r.now,
	}
	if r.tip != nil {
		b.PrevEvents = append(b.PrevEvents, r.tip.ID)
	}
	e, err := b.Build(by.id.Server(), by.kid, by.key)
	if err != nil {
		return nil, err
	}
	r.tip = e
	if typ == "m.room.create" {
		r.id = e.RoomID
	}
	return e, nil
}

type content map[string]any

func ptr(s string) *string { return &s }

// Start makes the events that a new room begins with, and lets all members join.
func (r *Room) Start() ([]*event.Event, error) {
	c := r.users[0]
	create, powers := r.foundation(c)
	type step struct {
		typ     string
		content any
		auth    bool
	}
	steps := []step{
		{"m.room.create", create, !r.rules.RoomIDIsCreateHash},
		{"m.room.member", nil, false},
		{"m.room.power_levels", powers, true},
		{"m.room.join_rules", content{"join_rule": r.pick([]string{"public", "invite", "invite", "knock"})}, true},
		{"m.room.history_visibility", content{"history_visibility": r.pick([]string{"shared", "shared", "invited", "joined", "world_readable"})}, false},
		{"m.room.guest_access", content{"guest_access": r.pick([]string{"can_join", "forbidden"})}, false},
		{"m.room.name", content{"name": r.pick(topics())}, false},
		{"m.room.topic", content{"topic": r.sentence(c), "m.topic": content{"m.text": []any{content{"body": r.sentence(c), "mimetype": "text/plain"}}}}, false},
		{"m.room.avatar", content{"url": r.mxc(c), "info": content{"h": 512, "w": 512, "mimetype": "image/png", "size": r.rng.IntN(100_000)}}, false},
		{"m.room.canonical_alias", content{"alias": "#" + strings.ToLower(r.pick(topics())) + ":" + string(c.id.Server())}, false},
		{"m.room.encryption", content{"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_ms": 604800000, "rotation_period_msgs": 100}, false},
		{"m.space.parent", content{"canonical": true, "via": []string{string(c.id.Server()), "matrix.org"}}, false},
		{"m.space.child", content{"via": []string{string(c.id.Server())}, "order": "a", "suggested": false}, false},
		{"m.room.pinned_events", content{"pinned": []string{"$" + r.base64(32)}}, false},
		{"m.room.server_acl", content{"allow": []string{"*"}, "deny": []string{"evil.example.com"}, "allow_ip_literals": false}, false},
	}
	var out []*event.Event
	for _, s := range steps {
		var e *event.Event
		var err error
		if s.content == nil {
			e, err = r.Join(c)
		} else {
			e, err = r.build(c, s.typ, ptr(""), s.content, "")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.typ, err)
		}
		if s.auth {
			r.auth = append(r.auth, e.ID)
		}
		out = append(out, e)
	}
	for _, u := range r.users[1:] {
		e, err := r.Join(u)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// foundation gives the contents of the create event and of the power levels.
func (r *Room) foundation(c user) (create, powers content) {
	create = content{"room_version": string(r.rules.Version)}
	if r.rules.CreatorInContent {
		create["creator"] = c.id
	}
	if r.rng.IntN(6) == 0 {
		create["type"] = "m.space"
	}
	powers = content{
		"users": content{string(c.id): 100}, "users_default": 0, "events_default": 0, "state_default": 50, "ban": 50, "kick": 50, "redact": 50,
		"invite": 0, "historical": 100, "notifications": content{"room": 50},
		"events": content{
			"m.room.name": 50, "m.room.power_levels": 100, "m.room.history_visibility": 100, "m.room.canonical_alias": 50, "m.room.avatar": 50,
			"m.room.tombstone": 100, "m.room.server_acl": 100, "m.room.encryption": 100,
		},
	}
	if r.rules.CreatorsPrivileged {
		powers["users"] = content{}
	}
	return create, powers
}

func (r *Room) mxc(u user) string { return "mxc://" + string(u.id.Server()) + "/" + r.letters(24) }

func (r *Room) sentence(u user) string {
	words := make([]string, 0, 16)
	for range 1 + r.rng.IntN(3) {
		words = append(words, r.pick(u.lang))
	}
	return strings.Join(words, " ")
}

// Join lets a user join, or change the profile when joined already.
func (r *Room) Join(u user) (*event.Event, error) {
	c := content{"membership": "join", "displayname": u.name}
	if r.rng.IntN(2) == 0 {
		c["avatar_url"] = r.mxc(u)
	} else if r.rng.IntN(2) == 0 {
		c["avatar_url"] = nil
	}
	e, err := r.build(u, "m.room.member", ptr(string(u.id)), c, "")
	if err == nil {
		r.joins[u.id] = e.ID
	}
	return e, err
}

// Message makes one event as members send them: mostly texts and encrypted events, some
// reactions, edits, replies, images, redactions and membership changes.
func (r *Room) Message() (*event.Event, error) {
	u := r.users[r.rng.IntN(len(r.users))]
	switch n := r.rng.IntN(100); {
	case n < 30:
		return r.Encrypted(u)
	case n < 60:
		return r.Text(u)
	case n < 70 && len(r.sent) > 0:
		return r.build(u, "m.reaction", nil, content{"m.relates_to": content{
			"rel_type": "m.annotation", "event_id": r.some(), "key": r.pick([]string{"👍", "👍️", "❤️", "😂", "🎉", "✅", "👀", "🙏"}),
		}}, "")
	case n < 76 && len(r.sent) > 0:
		text := r.sentence(u)
		return r.build(u, "m.room.message", nil, content{
			"body": " * " + text, "msgtype": "m.text", "m.mentions": content{},
			"m.new_content": content{"body": text, "msgtype": "m.text", "m.mentions": content{}},
			"m.relates_to":  content{"rel_type": "m.replace", "event_id": r.some()},
		}, "")
	case n < 82 && len(r.sent) > 0:
		return r.build(u, "m.room.redaction", nil, content{"reason": r.pick([]string{"", "spam", "typo"}), "redacts": r.some()}, r.some())
	case n < 88:
		return r.image(u)
	case n < 94:
		return r.Join(u)
	}
	other := r.user()
	c := content{"membership": r.pick([]string{"invite", "leave", "ban"}), "displayname": other.name, "reason": r.sentence(u)}
	return r.build(u, "m.room.member", ptr(string(other.id)), c, "")
}

func (r *Room) some() id.Event { return r.sent[r.rng.IntN(len(r.sent))] }

// remember keeps an event as a target of relations.
func (r *Room) remember(e *event.Event, err error) (*event.Event, error) {
	if err == nil {
		r.sent = append(r.sent, e.ID)
		if len(r.sent) > 50 {
			r.sent = r.sent[1:]
		}
	}
	return e, err
}

// Text makes a plain message, sometimes with HTML, a reply or a thread.
func (r *Room) Text(u user) (*event.Event, error) {
	text := r.sentence(u)
	c := content{"body": text, "msgtype": r.pick([]string{"m.text", "m.text", "m.text", "m.notice", "m.emote"})}
	if r.rng.IntN(2) == 0 {
		c["m.mentions"] = content{}
	}
	switch r.rng.IntN(6) {
	case 0:
		c["format"] = "org.matrix.custom.html"
		c["formatted_body"] = "<p>" + strings.Replace(text, " ", " <strong>", 1) + "</strong></p>\n<ul>\n<li><code>x</code></li>\n</ul>"
	case 1:
		if len(r.sent) > 0 {
			c["m.relates_to"] = content{"m.in_reply_to": content{"event_id": r.some()}}
		}
	case 2:
		if len(r.sent) > 0 {
			e := r.some()
			c["m.relates_to"] = content{"rel_type": "m.thread", "event_id": e, "is_falling_back": true, "m.in_reply_to": content{"event_id": e}}
		}
	case 3:
		other := r.users[r.rng.IntN(len(r.users))]
		c["m.mentions"] = content{"user_ids": []string{string(other.id)}}
		c["format"] = "org.matrix.custom.html"
		c["formatted_body"] = fmt.Sprintf("<a href=\"https://matrix.to/#/%s\">%s</a>: %s", other.id, other.name, text)
	}
	return r.remember(r.build(u, "m.room.message", nil, c, ""))
}

// Encrypted makes an event as an encrypting client sends it.
func (r *Room) Encrypted(u user) (*event.Event, error) {
	if r.megolm[u.id] == "" || r.rng.IntN(30) == 0 {
		r.megolm[u.id] = r.base64(32)
	}
	c := content{
		"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AwgA" + r.base64(170+r.rng.IntN(120)), "device_id": strings.ToUpper(r.letters(10)),
		"sender_key": r.base64(32), "session_id": r.megolm[u.id],
	}
	if r.rng.IntN(4) == 0 && len(r.sent) > 0 {
		c["m.relates_to"] = content{"m.in_reply_to": content{"event_id": r.some()}}
	}
	return r.remember(r.build(u, "m.room.encrypted", nil, c, ""))
}

func (r *Room) image(u user) (*event.Event, error) {
	return r.remember(r.build(u, "m.room.message", nil, content{
		"body": "IMG_" + r.letters(4) + ".jpg", "filename": "image.png", "msgtype": "m.image", "url": r.mxc(u),
		"info": content{
			"h": r.rng.IntN(3000), "w": r.rng.IntN(4000), "mimetype": "image/jpeg", "size": r.rng.IntN(4_000_000), "thumbnail_url": r.mxc(u),
			"thumbnail_info": content{"h": 600, "w": 800, "mimetype": "image/jpeg", "size": 60_000}, "xyz.amorgan.blurhash": r.base64(20),
		},
	}, ""))
}

// Member gives the i-th member, as a sender.
func (r *Room) Member(i int) Sender { return r.users[i%len(r.users)] }

// Sender is a member of a sample room.
type Sender = user
