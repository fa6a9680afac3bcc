package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// makeJoin gives the template of a join.
//
// spec: server-server §10, GET /_matrix/federation/v1/make_join/{roomId}/{userId}
func (s *Server) makeJoin(r *request) (any, error) {
	room, err := r.room(s)
	if err != nil {
		return nil, err
	}
	// spec: "ver … defaults to ["1"]"
	if !slices.Contains(r.URL.Query()["ver"], string(room.Version())) {
		return nil, merr.IncompatibleRoomVersion("the room has version %s", room.Version()).With("room_version", room.Version())
	}
	return s.makeMembership(r, room, "join")
}

// makeLeave gives the template of a leave.
//
// spec: server-server §13, GET /_matrix/federation/v1/make_leave/{roomId}/{userId}
func (s *Server) makeLeave(r *request) (any, error) {
	room, err := r.room(s)
	if err != nil {
		return nil, err
	}
	return s.makeMembership(r, room, "leave")
}

func (s *Server) makeMembership(r *request, room *Room, membership string) (any, error) {
	user, err := id.ParseUser(r.PathValue("userId"))
	if err != nil {
		return nil, err
	}
	if user.Server() != r.origin {
		return nil, merr.Forbidden("%s is not a user of %s", user, r.origin)
	}
	proto, err := room.offer(user, membership)
	if err != nil {
		return nil, err
	}
	return map[string]any{"room_version": room.Version(), "event": json.RawMessage(proto)}, nil
}

// offer makes the template of a membership event after all that is known.
func (r *Room) offer(user id.User, membership string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	st, err := r.current()
	if err != nil {
		return nil, err
	}
	stateKey := string(user)
	content := []byte(`{"membership":"` + membership + `"}`)
	b, err := r.template(st, r.parents(), user, eventauth.TypeMember, &stateKey, content)
	if err != nil {
		return nil, err
	}
	b.OriginServerTS = r.s.opts.Now().UnixMilli()
	if membership == "join" && !slices.ContainsFunc(r.joins, func(j Join) bool { return j.User == user && j.Event == "" }) {
		r.joins = append(r.joins, Join{User: user, Asked: time.Now()})
	}
	return b.Proto()
}

// parents are the forward extremities, as many as an event may name.
func (r *Room) parents() []id.Event {
	return slices.Clone(r.heads[max(0, len(r.heads)-event.MaxPrevEvents):])
}

// sendJoinV2 takes a join and streams the state before it.
//
// spec: server-server §10, PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}
func (s *Server) sendJoinV2(r *request) (any, error) {
	answer, err := s.sendJoin(r)
	if err != nil {
		return nil, err
	}
	return streamed(answer), nil
}

// sendJoinV1 is sendJoinV2 in the shape of an array of status and body.
//
// spec: server-server §10, PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}
func (s *Server) sendJoinV1(r *request) (any, error) {
	answer, err := s.sendJoin(r)
	if err != nil {
		return nil, err
	}
	return streamed(func(w io.Writer) error {
		if _, err := io.WriteString(w, "[200,"); err != nil {
			return err
		}
		if err := answer(w); err != nil {
			return err
		}
		_, err := io.WriteString(w, "]")
		return err
	}), nil
}

// sendJoin takes a join and gives what writes the answer. omit_members is not obeyed,
// as the specification allows: members_omitted says so.
func (s *Server) sendJoin(r *request) (func(io.Writer) error, error) {
	sent := time.Now()
	room, e, err := s.takeMembership(r, "join")
	if err != nil {
		return nil, err
	}
	room.mu.Lock()
	defer room.mu.Unlock()
	n, err := room.link(e)
	if err != nil {
		return nil, err
	}
	stateEvents := room.stateEntries(n.before)
	chain, err := room.stateAuthChain(n.before)
	if err != nil {
		return nil, err
	}
	chainEvents := room.entries(room.served(chain))
	room.joined(e, sent)
	return func(w io.Writer) error {
		c := &countingWriter{w: w}
		o := newObject(c)
		o.field("origin", r.at.name)
		o.field("members_omitted", false)
		o.raw("event", e.JSON())
		o.events("state", stateEvents)
		o.events("auth_chain", chainEvents)
		if err := o.close(); err != nil {
			return err
		}
		room.answered(e.ID, c.n)
		return nil
	}, nil
}

// joined notes a join.
func (r *Room) joined(e *event.Event, sent time.Time) {
	at := slices.IndexFunc(r.joins, func(j Join) bool { return j.User == e.Sender && j.Event == "" })
	if at < 0 {
		r.joins = append(r.joins, Join{User: e.Sender})
		at = len(r.joins) - 1
	}
	r.joins[at].Event, r.joins[at].Sent = e.ID, sent
}

// answered notes that a join's answer was written.
func (r *Room) answered(eventID id.Event, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := range r.joins {
		if r.joins[n].Event == eventID {
			r.joins[n].Answered, r.joins[n].Bytes = time.Now(), bytes
		}
	}
	r.tell()
}

// sendLeaveV2 takes a leave.
//
// spec: server-server §13, PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}
func (s *Server) sendLeaveV2(r *request) (any, error) {
	room, e, err := s.takeMembership(r, "leave")
	if err != nil {
		return nil, err
	}
	room.mu.Lock()
	defer room.mu.Unlock()
	_, err = room.link(e)
	return nil, err
}

// sendLeaveV1 is sendLeaveV2 in the shape of an array of status and body.
//
// spec: server-server §13, PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}
func (s *Server) sendLeaveV1(r *request) (any, error) {
	if _, err := s.sendLeaveV2(r); err != nil {
		return nil, err
	}
	return []any{200, struct{}{}}, nil
}

// takeMembership checks a signed membership event all but its authorisation.
func (s *Server) takeMembership(r *request, membership string) (*Room, *event.Event, error) {
	room, err := r.room(s)
	if err != nil {
		return nil, nil, err
	}
	e, err := event.Parse(r.body, room.rules)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case e.Redacted():
		return nil, nil, merr.BadJSON("the content hash is wrong")
	case string(e.ID) != r.PathValue("eventId"):
		return nil, nil, merr.BadJSON("the event is %s, not %s", e.ID, r.PathValue("eventId"))
	case e.RoomID != room.ID:
		return nil, nil, merr.BadJSON("the event is of the room %s", e.RoomID)
	case e.Type != eventauth.TypeMember || !e.IsState || e.StateKey != string(e.Sender) || e.Membership() != membership:
		return nil, nil, merr.BadJSON("the event is not the %s of its sender", membership)
	case e.Sender.Server() != r.origin:
		return nil, nil, merr.Forbidden("%s is not a user of %s", e.Sender, r.origin)
	}
	return room, e, s.verify(r.Context(), e)
}

// verify checks the signatures of an event.
func (s *Server) verify(ctx context.Context, e *event.Event) error {
	keys, err := s.ring.FetchFor(ctx, []*event.Event{e})
	if failed := e.VerifySignatures(keys); failed != nil {
		if err != nil {
			return fmt.Errorf("%w: %w", failed, err)
		}
		return failed
	}
	return nil
}
