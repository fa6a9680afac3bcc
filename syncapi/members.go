package syncapi

import (
	"context"
	"io"

	"github.com/tidwall/gjson"

	"weft/internal/clientevent"
	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/merr"
)

// memberPage is how many members are read at once.
const memberPage = 500

// GetMembersByRoom is GET /rooms/{roomId}/members.
//
// spec: client-server §10.4 (GET /rooms/{roomId}/members)
func (s *Server) GetMembersByRoom(ctx context.Context, r *httpapi.Request) (any, error) {
	v, err := s.viewRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	want, not := r.Query().Get("membership"), r.Query().Get("not_membership")
	for _, m := range []string{want, not} {
		if m != "" && eventstore.ParseMembership(m) == eventstore.None {
			return nil, merr.InvalidParam("%.100q is no membership", m)
		}
	}
	state := v.state
	if at := r.Query().Get("at"); at != "" {
		if state, err = s.stateAtToken(ctx, v, at); err != nil {
			return nil, err
		}
	}
	var list []nid.Event
	err = state.Walk(ctx, statetree.Key{Type: nid.TypeMember}, func(e statetree.Entry) error {
		if e.Type != nid.TypeMember {
			return statetree.Stop
		}
		list = append(list, e.Event)
		return nil
	})
	if err != nil {
		return nil, err
	}
	viewer := s.viewerOf(r)
	// spec?: membership and not_membership together are a union, as their
	// descriptions leave open and other servers have it.
	keep := func(e *eventstore.Event) bool {
		m := e.Membership()
		switch {
		case want == "" && not == "":
			return true
		case want == "":
			return m != not
		case not == "":
			return m == want
		}
		return m == want || m != not
	}
	return httpapi.Response{Stream: func(w io.Writer) error { return s.streamMembers(ctx, w, viewer, list, keep) }}, nil
}

// stateAtToken gives the state of a room at the place of a token.
func (s *Server) stateAtToken(ctx context.Context, v *roomView, token string) (*eventstore.State, error) {
	p, err := s.parsePlace(ctx, v.NID, token, false)
	if err != nil {
		return nil, err
	}
	at := p.at
	list, err := s.events.History(ctx, eventstore.HistoryQuery{Room: v.NID, From: at, Backward: true, Limit: 1, MaxStream: v.last})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 && p.maxStream != 0 {
		// spec?: prev_batch of a whole timeline lies before the room's first event, where there is nobody;
		// then the members at the time of that sync are meant.
		last, err := s.events.LastBefore(ctx, v.NID, p.maxStream)
		if err != nil {
			return nil, err
		}
		if last != 0 {
			if list, err = s.events.Events(ctx, []nid.Event{last}); err != nil {
				return nil, err
			}
		}
	}
	if len(list) == 0 {
		return s.events.State(statetree.Root{}), nil
	}
	if v.last != 0 && list[0].StreamPos > v.last {
		return v.state, nil
	}
	return s.events.StateAfter(list[0])
}

// streamMembers writes member events, page by page.
func (s *Server) streamMembers(ctx context.Context, w io.Writer, v clientevent.Viewer, list []nid.Event, keep func(*eventstore.Event) bool) error {
	o := &output{w: w}
	o.raw(`{"chunk":[`)
	first := true
	for len(list) > 0 {
		n := min(memberPage, len(list))
		page, err := s.events.Events(ctx, list[:n])
		if err != nil {
			return err
		}
		list = list[n:]
		for _, e := range page {
			if !keep(e) {
				continue
			}
			if !first {
				o.raw(`,`)
			}
			first = false
			o.buf = clientevent.Append(o.buf, e, clientevent.Options{Now: v.Now})
		}
		if err := o.flush(); err != nil {
			return err
		}
	}
	o.raw(`]}`)
	return o.finish()
}

// GetJoinedMembersByRoom is GET /rooms/{roomId}/joined_members.
func (s *Server) GetJoinedMembersByRoom(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := s.memberRoom(ctx, r)
	if err != nil {
		return nil, err
	}
	return httpapi.Response{Stream: func(w io.Writer) error { return s.streamJoined(ctx, w, room.NID) }}, nil
}

func (s *Server) streamJoined(ctx context.Context, w io.Writer, room nid.Room) error {
	o := &output{w: w}
	b := o.open()
	in := b.key("joined").open()
	after := nid.StateKey(0)
	for {
		page, err := s.events.Members(ctx, room, after, memberPage, eventstore.Join)
		if err != nil {
			return err
		}
		numbers := make([]nid.Event, len(page))
		for i, m := range page {
			numbers[i] = m.Event
		}
		list, err := s.events.Events(ctx, numbers)
		if err != nil {
			return err
		}
		for i, e := range list {
			profile := in.key(string(page[i].User)).open()
			for _, f := range [][2]string{{"displayname", "display_name"}, {"avatar_url", "avatar_url"}} {
				if value := gjson.GetBytes(e.Content(), f[0]); value.Type == gjson.String {
					profile.key(f[1]).string(value.Str)
				}
			}
			profile.close()
		}
		if err := o.flush(); err != nil {
			return err
		}
		if len(page) < memberPage {
			break
		}
		after = page[len(page)-1].UserNID
	}
	in.close()
	b.close()
	return o.finish()
}
