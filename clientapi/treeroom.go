package clientapi

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/internal/eventstore"
	"weft/internal/spaces"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	// maxChildVia bounds the servers that are asked about one room, and askTogether the rooms
	// that are asked about at once.
	maxChildVia = 5
	askTogether = 8
	// askTime bounds the questions about the rooms that are looked at together.
	askTime = 15 * time.Second
)

// treeRoom is a room as it is shown in a hierarchy, or alone. What this server knows
// comes from the room's state; of other rooms another server told.
type treeRoom struct {
	spaces.Space
	told *toldRoom // nil: this server is in the room
}

// residentRooms describes those of some rooms that this server is in.
func (s *Server) residentRooms(ctx context.Context, ids []id.Room) (map[id.Room]*treeRoom, error) {
	found, err := s.cfg.Events.RoomsWithServer(ctx, ids, s.cfg.ServerName)
	if err != nil {
		return nil, err
	}
	rows := make([]*eventstore.Room, 0, len(found))
	for _, row := range found {
		rows = append(rows, row)
	}
	summaries, err := spaces.Describe(ctx, s.cfg.Events, rows)
	if err != nil {
		return nil, err
	}
	out := make(map[id.Room]*treeRoom, len(rows))
	for i, row := range rows {
		room := &treeRoom{Space: spaces.Space{Summary: summaries[i], Children: []spaces.Child{}}}
		if room.RoomType == spaces.RoomType {
			if room.Children, err = spaces.Children(ctx, s.cfg.Events, row); err != nil {
				return nil, err
			}
		}
		out[row.ID] = room
	}
	return out, nil
}

// findRoom describes a room, asking other servers where this one is not in it; nil where
// nobody tells.
func (s *Server) findRoom(ctx context.Context, user id.User, room id.Room, via []id.Server) (*treeRoom, error) {
	resident, err := s.residentRooms(ctx, []id.Room{room})
	if err != nil || resident[room] != nil {
		return resident[room], err
	}
	likely, err := s.likelyServers(ctx, user, room)
	if err != nil {
		return nil, err
	}
	via = slices.DeleteFunc(append(slices.Clone(via), likely...), func(v id.Server) bool { return v == s.cfg.ServerName })
	return toldTreeRoom(s.told.ask(ctx, room, via[:min(len(via), maxChildVia)])), nil
}

func toldTreeRoom(told *toldRoom) *treeRoom {
	if told == nil {
		return nil
	}
	return &treeRoom{Space: told.Space, told: told}
}

// likelyServers lists servers that may know a room that this server is not in: that of
// whoever invited the user, and the one that made the room's ID.
func (s *Server) likelyServers(ctx context.Context, user id.User, room id.Room) ([]id.Server, error) {
	var out []id.Server
	n, err := s.cfg.Events.RoomNID(ctx, room)
	if err != nil {
		return nil, err
	}
	if n != 0 {
		member, err := s.cfg.Events.Member(ctx, n, user)
		if err != nil {
			return nil, err
		}
		if member.Event != 0 {
			e, err := s.cfg.Events.Event(ctx, member.Event)
			if err != nil {
				return nil, err
			}
			out = append(out, e.Sender.Server())
		}
	}
	if server := room.Server(); server != "" && !slices.Contains(out, server) {
		out = append(out, server)
	}
	return out, nil
}

// findChildren describes children of a space; nil stands for those of which nobody tells.
// asked is how many of them other servers had to be asked about.
//
// spec: client-server §11.37.2.2 ("the local data should be used instead of the remote server's
// data")
func (s *Server) findChildren(ctx context.Context, parent *treeRoom, links []spaces.Child) (out []*treeRoom, asked int, err error) {
	ids := make([]id.Room, len(links))
	for i := range links {
		ids[i] = links[i].Room()
	}
	resident, err := s.residentRooms(ctx, ids)
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(askTogether)
	out = make([]*treeRoom, len(links))
	for i, room := range ids {
		var summary *spaces.Summary
		if out[i] = resident[room]; out[i] != nil {
			continue
		}
		if parent.told != nil {
			// spec: server-server §16 (inaccessible_children: "They should not be re-requested.")
			if parent.told.closed[room] {
				continue
			}
			summary = parent.told.known[room]
		}
		if summary != nil {
			out[i] = &treeRoom{Space: spaces.Space{Summary: *summary, Children: []spaces.Child{}}, told: &toldRoom{}}
			if summary.RoomType != spaces.RoomType {
				continue // a space's children are still to be asked for
			}
		}
		asked++
		group.Go(func() error {
			via := links[i].Via(s.cfg.ServerName, maxChildVia)
			if found := toldTreeRoom(s.told.ask(ctx, room, via)); found != nil {
				out[i] = found
			}
			return nil
		})
	}
	return out, asked, group.Wait()
}

// maySeeRoom tells whether a user may see what a room shows of itself; user is empty for
// somebody who is not logged in. It gives the user's membership, too.
//
// spec: client-server §11.37 (GET /hierarchy, conditions for rooms)
// spec?: a public room is shown to those who have "permission to join", which whoever is banned
// has not, though the list of conditions names the join rule alone.
func (s *Server) maySeeRoom(ctx context.Context, user id.User, room *spaces.Summary) (eventstore.Membership, bool, error) {
	if user == "" {
		return eventstore.None, room.Open(), nil
	}
	membership, err := s.membershipIn(ctx, user, room.RoomID)
	if err != nil {
		return membership, false, err
	}
	switch membership {
	case eventstore.Join, eventstore.Invite:
		return membership, true, nil
	case eventstore.Ban:
		return membership, room.WorldReadable, nil
	}
	if room.Open() {
		return membership, true, nil
	}
	if room.Restricted() {
		for _, allowed := range room.AllowedRooms {
			err := s.mustBeJoined(ctx, user, allowed)
			if err == nil {
				return membership, true, nil
			}
			if !errors.Is(err, merr.ErrForbidden) {
				return membership, false, err
			}
		}
	}
	return membership, false, nil
}

// membershipIn gives a user's membership in a room that may be unknown here.
func (s *Server) membershipIn(ctx context.Context, user id.User, room id.Room) (eventstore.Membership, error) {
	n, err := s.cfg.Events.RoomNID(ctx, room)
	if err != nil || n == 0 {
		return eventstore.None, err
	}
	membership, _, err := s.cfg.Events.Membership(ctx, n, user)
	return membership, err
}
