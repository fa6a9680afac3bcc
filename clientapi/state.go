package clientapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"

	"weft/internal/clientevent"
	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// visibleState is the state of a room that a user may read: the current one of
// members, that at the time of leaving of those who left, and the current one of
// anybody where the history is world-readable.
//
// spec: client-server §10.3.1 (GET /rooms/{roomId}/state)
func (s *Server) visibleState(ctx context.Context, user id.User, room id.Room) (*eventstore.State, error) {
	hidden := merr.Forbidden("%s is not in the room %s", user, room)
	info, err := s.cfg.Events.Room(ctx, room)
	if errors.Is(err, merr.ErrNotFound) || err == nil && info.Stub {
		return nil, hidden
	}
	if err != nil {
		return nil, err
	}
	member, err := s.cfg.Events.Member(ctx, info.NID, user)
	if err != nil {
		return nil, err
	}
	current := s.cfg.Events.CurrentState(info)
	if member.Membership == eventstore.Join {
		return current, nil
	}
	visibility, err := current.HistoryVisibility(ctx)
	if err != nil {
		return nil, err
	}
	if visibility == "world_readable" {
		return current, nil
	}
	if member.Membership != eventstore.Leave && member.Membership != eventstore.Ban || member.Forgotten {
		return nil, hidden
	}
	was, err := s.wasJoined(ctx, user, info)
	if err != nil {
		return nil, err
	}
	if !was {
		return nil, hidden
	}
	ev, err := s.cfg.Events.Event(ctx, member.Event)
	if err != nil {
		return nil, err
	}
	state, err := s.cfg.Events.StateAfter(ev)
	if errors.Is(err, merr.ErrNotFound) {
		return nil, hidden
	}
	return state, err
}

// wasJoined tells whether a user ever was in a room: one who only declined an
// invite never could see its state.
func (s *Server) wasJoined(ctx context.Context, user id.User, room *eventstore.Room) (bool, error) {
	changes, err := s.cfg.Events.MembershipChanges(ctx, user, 0, math.MaxInt64)
	if err != nil {
		return false, err
	}
	for _, c := range changes {
		if c.Room == room.NID && (c.Membership == eventstore.Join || c.Prev == eventstore.Join) {
			return true, nil
		}
	}
	return false, nil
}

// GetRoomState is GET /rooms/{roomId}/state. A big room's state is written as it
// is read, never held as a whole.
func (s *Server) GetRoomState(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	state, err := s.visibleState(ctx, r.Session.User, room)
	if err != nil {
		return nil, err
	}
	return &httpapi.Response{Stream: func(w io.Writer) error {
		out := bufio.NewWriterSize(w, 32<<10)
		opts := clientevent.Options{Now: s.nowMS()}
		buf := []byte{'['}
		first := true
		err := state.List(ctx, func(e *eventstore.Event) error {
			if !first {
				buf = append(buf, ',')
			}
			first = false
			buf = clientevent.Append(buf, e, opts)
			_, err := out.Write(buf)
			buf = buf[:0]
			return err
		})
		if err != nil {
			return err
		}
		if _, err := out.Write(append(buf, ']')); err != nil {
			return err
		}
		return out.Flush()
	}}, nil
}

// GetRoomStateWithKey is GET /rooms/{roomId}/state/{eventType}/{stateKey}, also
// without a state key.
func (s *Server) GetRoomStateWithKey(ctx context.Context, r *httpapi.Request) (any, error) {
	room, typ, err := eventVars(r)
	if err != nil {
		return nil, err
	}
	format := r.Query().Get("format")
	if format != "" && format != "content" && format != "event" {
		return nil, merr.InvalidParam("format %q is neither content nor event", format)
	}
	state, err := s.visibleState(ctx, r.Session.User, room)
	if err != nil {
		return nil, err
	}
	ev, err := state.Get(ctx, typ, r.Vars["stateKey"])
	if err != nil {
		return nil, err
	}
	if ev == nil {
		return nil, merr.NotFound("the room has no state %s with key %q", typ, r.Vars["stateKey"])
	}
	if format == "event" {
		return json.RawMessage(clientevent.Make(ev, clientevent.Options{Now: s.nowMS()})), nil
	}
	return json.RawMessage(ev.Content()), nil
}
