package syncapi

import (
	"context"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// roomView is what a user may look at of a room.
type roomView struct {
	*eventstore.Room
	user   id.User
	member eventstore.Member
	// last is the stream position up to which events are shown; 0: all. It is that of
	// the leave event for those who left.
	last int64
	// state is the state that is shown: the current one, or that at the leave event.
	state *eventstore.State
}

// viewRoom checks that the user may look at the path's room at all: as a member, one who
// left, or anybody where the history is readable by the world.
//
// spec: client-server §11.11 (Room history visibility)
func (s *Server) viewRoom(ctx context.Context, r *httpapi.Request) (*roomView, error) {
	roomID, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	refused := merr.Forbidden("you are not in the room %s", roomID)
	n, err := s.events.RoomNID(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, refused
	}
	room, err := s.events.RoomByNID(ctx, n)
	if err != nil {
		return nil, err
	}
	v := &roomView{Room: room, user: r.Session.User, state: s.events.CurrentState(room)}
	if v.member, err = s.events.Member(ctx, n, v.user); err != nil {
		return nil, err
	}
	if room.Stub {
		return nil, refused
	}
	if v.member.Membership == eventstore.Join {
		return v, nil
	}
	visibility, err := v.state.HistoryVisibility(ctx)
	if err != nil {
		return nil, err
	}
	if visibility == "world_readable" && !v.member.Forgotten {
		return v, nil
	}
	left := v.member.Membership == eventstore.Leave || v.member.Membership == eventstore.Ban
	if !left || v.member.Forgotten {
		return nil, refused
	}
	return v, s.endAtLeave(ctx, v, refused)
}

// endAtLeave limits a view to what was there when the user left, if the user was in the
// room at all.
func (s *Server) endAtLeave(ctx context.Context, v *roomView, refused error) error {
	e, err := s.events.Event(ctx, v.member.Event)
	if err != nil {
		return err
	}
	if !e.HasState || e.StreamPos <= 0 {
		return refused
	}
	v.last = e.StreamPos
	if v.state, err = s.events.StateAfter(e); err != nil {
		return err
	}
	changes, err := s.events.MembershipChanges(ctx, v.user, 0, e.StreamPos)
	if err != nil {
		return err
	}
	for _, c := range changes {
		if c.Room == v.NID && c.Membership == eventstore.Join {
			return nil
		}
	}
	return refused
}

// visibleEvent reads an event of a room that the user may see. Any other is M_NOT_FOUND,
// so that nothing is told about events that are hidden.
func (s *Server) visibleEvent(ctx context.Context, v *roomView, eventID id.Event) (*eventstore.Event, error) {
	missing := merr.NotFound("there is no event %s that you could see", eventID)
	found, err := s.events.EventsByID(ctx, []id.Event{eventID})
	if err != nil {
		return nil, err
	}
	e := found[eventID]
	if e == nil || e.RoomNID != v.NID {
		return nil, missing
	}
	ok, err := s.events.CanSee(ctx, v.user, e)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, missing
	}
	return e, nil
}
