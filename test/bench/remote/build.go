package remote

import (
	"context"
	"fmt"
	"strconv"

	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

const (
	// maxSenders bounds the users who send messages, moderators who can change the
	// room's state.
	maxSenders = 16
	moderators = 4

	creatorLevel   = 100
	moderatorLevel = 50

	// step is the time between two events of a room's beginning, in milliseconds.
	step = 1000
)

// cast is who does what in a room: users of the main server by their numbers, since
// a server sends the events of its own users.
type cast struct {
	// senders send messages. They never leave and lose no power to do so. The first
	// is the creator, then come the moderators.
	senders []id.User
	// moderators may change the room's state and ban.
	moderators []id.User
	// others are further members who change their names and are banned.
	others []id.User
}

// maxOthers bounds those of whom a branchy inflow makes use, and with it how far a
// state can depart from that which the room began with.
const maxOthers = 64

func (s *Server) newCast(members int) cast {
	var c cast
	width := len(s.identities)
	local := (members + width - 1) / width
	senders := min(maxSenders, (local+1)/2)
	for n := 0; n < members && len(c.others) < maxOthers; n += width {
		user := s.member(n)
		if len(c.senders) < senders {
			c.senders = append(c.senders, user)
		} else {
			c.others = append(c.others, user)
		}
	}
	c.moderators = c.senders[1:min(len(c.senders), moderators+1)]
	return c
}

// NewRoom makes a public room: the creator's events, then the joins of the other
// members, one after another. It takes a second or so for 20,000 members.
func (s *Server) NewRoom(ctx context.Context, o RoomOptions) (*Room, error) {
	if o.Version == "" {
		o.Version = event.DefaultVersion
	}
	if o.Body == 0 {
		o.Body = defaultBody
	}
	rules, err := event.Version(o.Version)
	switch {
	case err != nil:
		return nil, fmt.Errorf("remote: %w", err)
	case rules.EventFormat == event.FormatPairs:
		return nil, fmt.Errorf("remote: rooms of version %s are not made: their events name hashes of their parents", o.Version)
	case o.Members < 1 || o.Members > MaxMembers:
		return nil, fmt.Errorf("remote: a room of %d members, not 1 to %d", o.Members, MaxMembers)
	case o.Body < 1 || o.Body > maxBodyText:
		return nil, fmt.Errorf("remote: messages of %d bytes, not 1 to %d", o.Body, maxBodyText)
	}
	r := &Room{s: s, rules: rules, opts: o, cast: s.newCast(o.Members), initial: make(map[key]int),
		early: make(map[id.Event]*event.Event), recent: make(map[id.Event]*node),
		checker: eventauth.NewChecker(), changed: make(chan struct{}), events: newHistory(o.Members + 16)}
	r.lastTS = s.opts.Now().UnixMilli() - int64(o.Members+16)*step
	if err := r.begin(); err != nil {
		return nil, err
	}
	if err := r.fill(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.rooms[r.ID] = r
	s.mu.Unlock()
	return r, nil
}

// begin makes the initial events.
func (r *Room) begin() error {
	creator := r.Creator()
	if !r.rules.RoomIDIsCreateHash {
		r.ID = id.Room("!synthetic-" + strconv.FormatInt(r.s.txn.Add(1), 10) + ":" + string(creator.Server()))
	}
	create := map[string]any{"room_version": r.rules.Version}
	if r.rules.CreatorInContent {
		create["creator"] = creator
	}
	for _, ev := range []struct {
		typ, stateKey string
		content       any
	}{
		{eventauth.TypeCreate, "", create},
		{eventauth.TypeMember, string(creator), memberContent(0)},
		{eventauth.TypePowerLevels, "", r.levels(nil)},
		{eventauth.TypeJoinRules, "", map[string]any{"join_rule": "public"}},
		{"m.room.history_visibility", "", map[string]any{"history_visibility": "shared"}},
		{"m.room.name", "", map[string]any{"name": "Synthetic room of " + strconv.Itoa(r.opts.Members)}},
	} {
		if err := r.beginWith(ev.typ, ev.stateKey, ev.content); err != nil {
			return err
		}
	}
	return nil
}

// beginWith makes one of the initial events.
func (r *Room) beginWith(typ, stateKey string, content any) error {
	raw, err := canonical.Marshal(content)
	if err != nil {
		return err
	}
	before := state{began: len(r.events.list)}
	e, err := r.draft(before, r.heads, r.Creator(), typ, &stateKey, raw)
	if err != nil {
		return err
	}
	if typ == eventauth.TypeCreate {
		r.ID = e.RoomID
	}
	if err := r.allowed(e, before); err != nil {
		return fmt.Errorf("remote: %s: %w", typ, err)
	}
	r.initial[key{Type: typ, StateKey: stateKey}] = r.events.add(e)
	r.early[e.ID] = e
	r.heads = []id.Event{e.ID}
	return nil
}

// fill makes the joins of the other members. They all name the same auth events,
// and each the join before it as its parent.
func (r *Room) fill(ctx context.Context) error {
	before := state{began: len(r.events.list)}
	for n := 1; n < r.opts.Members; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		user := r.s.member(n)
		stateKey := string(user)
		content, err := canonical.Marshal(memberContent(n))
		if err != nil {
			return err
		}
		e, err := r.draft(before, r.heads, user, eventauth.TypeMember, &stateKey, content)
		if err != nil {
			return err
		}
		r.events.add(e)
		r.heads = []id.Event{e.ID}
	}
	return nil
}

// memberContent is the content of a member's join.
func memberContent(n int) map[string]any {
	return map[string]any{
		"membership": "join", "displayname": "Member " + strconv.Itoa(n),
		"avatar_url": fmt.Sprintf("mxc://media.invalid/avatar%024d", n),
	}
}

// levels is the content of the power levels, where some moderators have lost their
// level.
func (r *Room) levels(demoted map[id.User]bool) map[string]any {
	users := map[string]int{}
	if !r.rules.CreatorsPrivileged {
		users[string(r.Creator())] = creatorLevel
	}
	for _, m := range r.cast.moderators {
		if users[string(m)] = moderatorLevel; demoted[m] {
			users[string(m)] = 0
		}
	}
	return map[string]any{
		"users": users, "users_default": 0, "events_default": 0, "state_default": moderatorLevel,
		"ban": moderatorLevel, "kick": moderatorLevel, "redact": moderatorLevel, "invite": 0,
		"events": map[string]int{eventauth.TypePowerLevels: creatorLevel, "m.room.history_visibility": creatorLevel},
	}
}

// draft makes and signs an event with certain parents. Nothing is added to the room.
func (r *Room) draft(before state, prev []id.Event, sender id.User, typ string, stateKey *string, content []byte) (*event.Event, error) {
	i := r.s.identity(sender.Server())
	if i == nil {
		return nil, fmt.Errorf("remote: %s is not a user of this server", sender)
	}
	b, err := r.template(before, prev, sender, typ, stateKey, content)
	if err != nil {
		return nil, err
	}
	r.lastTS++
	if len(r.recent) == 0 {
		r.lastTS += step - 1
	}
	b.OriginServerTS = r.lastTS
	e, err := b.Build(i.name, i.keyID, i.key)
	if err != nil {
		return nil, fmt.Errorf("remote: %s: %w", typ, err)
	}
	return e, nil
}

// template places an event in the graph: parents, auth events, depth.
func (r *Room) template(before state, prev []id.Event, sender id.User, typ string, stateKey *string, content []byte) (*event.Builder, error) {
	b := &event.Builder{
		Rules: r.rules, RoomID: r.ID, Sender: sender, Type: typ, StateKey: stateKey, Content: content, PrevEvents: prev, Depth: 1,
	}
	for _, k := range eventauth.NeededKeysFor(r.rules, typ, sender, stateKey, content) {
		if e := r.lookUp(before, k); e != "" {
			b.AuthEvents = append(b.AuthEvents, e)
		}
	}
	for _, p := range prev {
		depth, err := r.depth(p)
		if err != nil {
			return nil, err
		}
		b.Depth = max(b.Depth, depth+1)
	}
	return b, nil
}

// depth gives the depth of an event. The beginning is a chain.
func (r *Room) depth(eventID id.Event) (int64, error) {
	if n := r.recent[eventID]; n != nil {
		return n.event.Depth, nil
	}
	at, ok := r.events.index[eventID]
	if !ok {
		return 0, fmt.Errorf("remote: no event %s in the room %s", eventID, r.ID)
	}
	return int64(at + 1), nil
}
