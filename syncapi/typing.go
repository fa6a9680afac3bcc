package syncapi

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	fedapi "weft/federationapi/api"
	"weft/internal/bus"
	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	eduTyping   = "m.typing"
	topicTyping = "typing"
	// defaultTyping is how long a user types where nothing says how long, and for users
	// of other servers; maxTyping the longest time that is believed.
	defaultTyping = 30 * time.Second
	maxTyping     = 2 * time.Minute
	// typingKept is for how long it is known that typing ended in a room, for clients who saw it begin.
	typingKept = 10 * time.Minute
	// maxTypists bounds the users typing in one room, maxTypingRooms the rooms.
	maxTypists     = 200
	maxTypingRooms = 50_000
)

// typing knows who is typing where. It lives in memory; the bus spreads it.
type typing struct {
	s  *Server
	me uint32 // who sends on the bus

	mu     sync.Mutex
	last   int64 // the newest position given out
	rooms  map[id.Room]*typingRoom
	signal chan struct{} // an earlier end is to be waited for
}

// typingRoom is a room in which somebody typed lately.
type typingRoom struct {
	until   map[id.User]time.Time
	changed int64 // position of the last change
}

func newTyping(s *Server) *typing {
	return &typing{s: s, me: rand.Uint32(), last: s.nowMS(), rooms: make(map[id.Room]*typingRoom), signal: make(chan struct{}, 1)}
}

// position gives the newest position.
func (t *typing) position() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

// changed lists the rooms with changes after a position.
func (t *typing) changed(since int64) []id.Room {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []id.Room
	for room, r := range t.rooms {
		if r.changed > since {
			out = append(out, room)
		}
	}
	return out
}

// active lists the rooms in which somebody types.
func (t *typing) active() []id.Room {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []id.Room
	for room, r := range t.rooms {
		if len(r.until) > 0 {
			out = append(out, room)
		}
	}
	return out
}

// typists gives who types in a room; false where there is nothing to tell to one who
// knows the state at since. knows tells that the client was told before.
func (t *typing) typists(room id.Room, since int64, knows bool) ([]id.User, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rooms[room]
	if r == nil || r.changed <= since || !knows && len(r.until) == 0 {
		return nil, false
	}
	out := make([]id.User, 0, len(r.until))
	for u := range r.until {
		out = append(out, u)
	}
	slices.Sort(out)
	return out, true
}

// typingContent makes the content of m.typing, without ignored users.
func typingContent(users []id.User, ignored map[id.User]bool) []byte {
	o := new(output)
	b := o.open()
	texts(b, "user_ids", slices.DeleteFunc(users, func(u id.User) bool { return ignored[u] }))
	b.close()
	return o.buf
}

// typingMessage is what the bus carries.
type typingMessage struct {
	Room  id.Room `json:"r"`
	User  id.User `json:"u"`
	Until int64   `json:"t"` // ms; 0: stopped
	From  uint32  `json:"f"`
}

// set notes that a user types until a time (zero: no more), here and on other nodes.
func (t *typing) set(room id.Room, user id.User, until time.Time) error {
	m := typingMessage{Room: room, User: user, From: t.me}
	if !until.IsZero() {
		m.Until = until.UnixMilli()
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	t.apply(m)
	t.s.cfg.Bus.Publish(topicTyping, data)
	return nil
}

// apply carries out a message. One that changes nothing has no effect.
func (t *typing) apply(m typingMessage) {
	t.mu.Lock()
	r := t.rooms[m.Room]
	if r == nil {
		// That typing ended is worth knowing also here: the client of another node may have seen it begin.
		if m.Until == 0 && !t.s.cfg.Shared || len(t.rooms) >= maxTypingRooms {
			t.mu.Unlock()
			return
		}
		r = &typingRoom{until: make(map[id.User]time.Time)}
		t.rooms[m.Room] = r
	}
	_, was := r.until[m.User]
	news := r.changed == 0
	switch {
	case m.Until == 0:
		delete(r.until, m.User)
		news = news || was
	case was || len(r.until) < maxTypists:
		r.until[m.User] = time.UnixMilli(m.Until)
		news = !was
	}
	if news {
		t.move(r)
	}
	t.mu.Unlock()
	if news {
		t.wake(m.Room)
	}
	select {
	case t.signal <- struct{}{}:
	default:
	}
}

// move gives a room's change a position.
func (t *typing) move(r *typingRoom) {
	t.last = max(t.last+1, t.s.nowMS())
	r.changed = t.last
}

func (t *typing) wake(rooms ...id.Room) {
	u := bus.Update{Stream: topicTyping}
	for _, r := range rooms {
		u.Rooms = append(u.Rooms, string(r))
	}
	t.s.notifier.take(u)
}

// run takes other nodes' messages and ends what nobody ended, until ctx ends.
func (t *typing) run(ctx context.Context) {
	cancel := t.s.cfg.Bus.Subscribe(topicTyping, func(data []byte) {
		var m typingMessage
		if err := json.Unmarshal(data, &m); err != nil {
			t.s.log.WithError(err).Warn("unreadable typing message on the bus")
			return
		}
		if m.From != t.me { // an own one may come after a later one was applied
			t.apply(m)
		}
	})
	defer cancel()
	timer := time.NewTimer(typingKept)
	defer timer.Stop()
	for {
		select {
		case <-t.signal:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		timer.Reset(t.expire(t.s.now()))
	}
}

// expire ends what is over; it returns how long to wait for the next end.
func (t *typing) expire(now time.Time) time.Duration {
	t.mu.Lock()
	next := typingKept
	var ended []id.Room
	for room, r := range t.rooms {
		over := false
		for u, until := range r.until {
			if left := until.Sub(now); left <= 0 {
				delete(r.until, u)
				over = true
			} else {
				next = min(next, left)
			}
		}
		if over {
			t.move(r)
			ended = append(ended, room)
		}
		if len(r.until) == 0 && now.UnixMilli()-r.changed > typingKept.Milliseconds() {
			delete(t.rooms, room)
		}
	}
	t.mu.Unlock()
	if len(ended) > 0 {
		t.wake(ended...)
	}
	return next + time.Millisecond
}

// SetTyping is PUT /rooms/{roomId}/typing/{userId}.
//
// spec: client-server §11.4 (Typing notifications)
func (s *Server) SetTyping(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := s.memberRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := ownUser(r); err != nil {
		return nil, err
	}
	var body struct {
		Typing  *bool `json:"typing"`
		Timeout int64 `json:"timeout"`
	}
	if err := r.DecodeJSON(&body); err != nil {
		return nil, err
	}
	if body.Typing == nil {
		return nil, merr.MissingParam("typing is missing")
	}
	until := time.Time{}
	if *body.Typing {
		d := defaultTyping
		if body.Timeout > 0 {
			d = min(time.Duration(body.Timeout)*time.Millisecond, maxTyping)
		}
		until = s.now().Add(d)
	}
	if err := s.typing.set(room.ID, r.Session.User, until); err != nil {
		return nil, err
	}
	return nil, s.sendTyping(ctx, room, r.Session.User, *body.Typing)
}

// typingEDU is the content of the EDU m.typing.
//
// spec: server-server §12 (Typing notifications)
type typingEDU struct {
	Room   id.Room `json:"room_id"`
	User   id.User `json:"user_id"`
	Typing bool    `json:"typing"`
}

func (s *Server) sendTyping(ctx context.Context, room *eventstore.Room, user id.User, typing bool) error {
	content, err := json.Marshal(typingEDU{room.ID, user, typing})
	if err != nil {
		return err
	}
	return s.sendToRoom(ctx, room, fedapi.EDU{Type: eduTyping, Content: content, Key: string(room.ID) + "/" + string(user)})
}

// sendToRoom sends an EDU to the other servers in a room.
func (s *Server) sendToRoom(ctx context.Context, room *eventstore.Room, edu fedapi.EDU) error {
	if s.cfg.Outbound == nil {
		return nil
	}
	servers, err := s.events.Servers(ctx, room.NID)
	if err != nil {
		return err
	}
	edu.Destinations = slices.DeleteFunc(servers, func(d id.Server) bool { return d == s.cfg.ServerName })
	if len(edu.Destinations) == 0 {
		return nil
	}
	return s.cfg.Outbound.SendEDU(ctx, edu)
}

// receiveTyping takes m.typing from another server. What concerns rooms we or the user
// are not in is dropped: rooms and EDUs take different ways, so it happens.
func (s *Server) receiveTyping(ctx context.Context, origin id.Server, content json.RawMessage) error {
	var edu typingEDU
	if err := json.Unmarshal(content, &edu); err != nil {
		return merr.BadJSON("%s: %v", eduTyping, err)
	}
	if edu.User.Server() != origin {
		return merr.Forbidden("%s sends typing of a user of another server", origin)
	}
	joined, err := s.remoteMember(ctx, edu.Room, edu.User)
	if err != nil || !joined {
		return err
	}
	until := time.Time{}
	if edu.Typing {
		until = s.now().Add(defaultTyping)
	}
	return s.typing.set(edu.Room, edu.User, until)
}

// remoteMember tells whether another server's user is in a room that this server knows.
func (s *Server) remoteMember(ctx context.Context, room id.Room, user id.User) (bool, error) {
	n, err := s.events.RoomNID(ctx, room)
	if err != nil || n == 0 {
		return false, err
	}
	m, _, err := s.events.Membership(ctx, n, user)
	return m == eventstore.Join, err
}

// ownUser checks that the path names the user who asks.
func ownUser(r *httpapi.Request) error {
	user, err := r.UserVar("userId")
	if err != nil {
		return err
	}
	if user != r.Session.User {
		return merr.Forbidden("%s is not you", user)
	}
	return nil
}

// memberRoom reads the path's room, in which the user must be.
func (s *Server) memberRoom(ctx context.Context, r *httpapi.Request) (*eventstore.Room, error) {
	roomID, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	notIn := merr.Forbidden("you are not in the room %s", roomID)
	n, err := s.events.RoomNID(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, notIn
	}
	m, _, err := s.events.Membership(ctx, n, r.Session.User)
	if err != nil {
		return nil, err
	}
	if m != eventstore.Join {
		return nil, notIn
	}
	return s.events.RoomByNID(ctx, n)
}
