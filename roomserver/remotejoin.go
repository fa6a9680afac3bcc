package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"weft/internal/eventstore"
	"weft/internal/fedclient"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

// finishJoin bounds what follows once a server may have let us in: then the client's
// patience is no reason to stop any more.
const finishJoin = 15 * time.Minute

// handshake is one membership made through another server: make_X, send_X.
type handshake struct {
	s    *Server
	req  api.SetMembership
	make func(ctx context.Context, server id.Server) (*fedclient.Template, error)
}

// joinRemotely joins a room that this server is not in. room is its row, or nil.
//
//  1. one at a time for each room; those who waited look again
//  2. candidates: what the client names, the inviter's server, the room ID's
//  3. make_join: a template by one of them
//  4. check, complete and sign it
//  5. send_join: the room's state, spooled as it streams in
//  6. verify and store the room
//  7. aside, a little later: what has happened in it meanwhile (catchUp)
//
// spec: server-server §12 (Joining Rooms)
func (s *Server) joinRemotely(ctx context.Context, req api.SetMembership, room *eventstore.Room) (id.Event, error) {
	leave, err := s.ops.enterRoom(ctx, req.Room)
	if err != nil {
		return "", err
	}
	defer leave()
	if _, resident, err := s.residence(ctx, req.Room); err != nil {
		return "", err
	} else if resident {
		event, err := s.joinLocally(ctx, req)
		if !errors.Is(err, merr.ErrUnableToAuthoriseJoin) && !errors.Is(err, merr.ErrUnableToGrantJoin) {
			return event, err
		}
	}
	servers, err := s.candidates(ctx, req, room)
	if err != nil {
		return "", err
	}
	return s.joinThrough(ctx, req, servers)
}

// joinThroughOthers joins a restricted room in which this server is, but cannot let the
// user in. why says what it lacks.
func (s *Server) joinThroughOthers(ctx context.Context, req api.SetMembership, room *eventstore.Room, why error) (id.Event, error) {
	servers, err := s.candidates(ctx, req, room)
	if err != nil {
		return "", err
	}
	inRoom, err := s.store.Servers(ctx, room.NID)
	if err != nil {
		return "", err
	}
	servers = s.distinct(append(servers, inRoom...))
	if len(servers) == 0 {
		return "", fmt.Errorf("%w: %w", merr.Forbidden("nobody in the room can let %s in", req.Target), why)
	}
	return s.joinThrough(ctx, req, servers)
}

func (s *Server) joinThrough(ctx context.Context, req api.SetMembership, servers []id.Server) (id.Event, error) {
	leave, err := s.ops.enterJoin(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	return tryServers(ctx, req, servers, func(server id.Server) (id.Event, error) { return s.joinVia(ctx, req, server) })
}

// candidates lists the servers to ask, best first, without this one: those that the
// request names and those of who invited. Only where there is none of them, the
// servers that were in the room when this one was, and the one that made the room ID,
// are guessed at.
func (s *Server) candidates(ctx context.Context, req api.SetMembership, room *eventstore.Room) ([]id.Server, error) {
	list := slices.Clone(req.Servers)
	if room != nil {
		more, err := s.inviteServers(ctx, room, req.Target)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	if known := s.distinct(list); len(known) > 0 {
		return known, nil
	}
	if room != nil && !room.Stub {
		inRoom, err := s.store.Servers(ctx, room.NID)
		if err != nil {
			return nil, err
		}
		list = append(list, inRoom...)
	}
	return s.distinct(append(list, req.Room.Server())), nil
}

// inviteServers gives the servers of those who invited a user, or whom the user
// knows from a knock: the sender of the member event, and of what came with it.
func (s *Server) inviteServers(ctx context.Context, room *eventstore.Room, user id.User) ([]id.Server, error) {
	member, err := s.store.Member(ctx, room.NID, user)
	if err != nil || member.Event == 0 {
		return nil, err
	}
	e, err := s.store.Event(ctx, member.Event)
	if err != nil {
		return nil, err
	}
	list := []id.Server{e.Sender.Server()}
	stripped, err := s.store.InviteState(ctx, room.NID, user)
	if err != nil {
		return nil, err
	}
	for _, raw := range stripped {
		var ev struct{ Sender id.User }
		if json.Unmarshal(raw, &ev) == nil {
			list = append(list, ev.Sender.Server())
		}
	}
	return list, nil
}

// distinct drops duplicates, this server and what is no server name, and what goes
// over maxCandidates.
func (s *Server) distinct(list []id.Server) []id.Server {
	var out []id.Server
	for _, server := range list {
		if _, err := id.ParseServer(string(server)); err != nil || server == s.cfg.ServerName || slices.Contains(out, server) {
			continue
		}
		if out = append(out, server); len(out) == maxCandidates {
			break
		}
	}
	return out
}

// tryServers asks servers one after another until one does it. An answer that would be
// the same everywhere ends it: that the user may not, or that the room has a version
// we do not know. If none does it, the most telling of their errors is returned.
func tryServers(ctx context.Context, req api.SetMembership, servers []id.Server, try func(id.Server) (id.Event, error)) (id.Event, error) {
	if len(servers) == 0 {
		return "", merr.NotFound("no server is known that is in the room %s", req.Room)
	}
	var telling error
	for _, server := range servers {
		event, err := try(server)
		if err == nil {
			return event, nil
		}
		if ctx.Err() != nil || isFinal(err) {
			return "", err
		}
		if telling == nil || merr.From(telling).Status >= 500 {
			telling = err
		}
	}
	if errors.Is(telling, merr.ErrUnableToAuthoriseJoin) || errors.Is(telling, merr.ErrUnableToGrantJoin) {
		return "", fmt.Errorf("%w: %w", merr.Forbidden("no server that was asked can let %s in", req.Target), telling)
	}
	return "", telling
}

// isFinal tells errors that asking somebody else will not help. Our own failures are
// among them.
func isFinal(err error) bool {
	if _, remote := fedclient.AsRemote(err); remote {
		return errors.Is(err, merr.ErrForbidden) || errors.Is(err, merr.ErrIncompatibleRoomVersion) ||
			errors.Is(err, merr.ErrUnsupportedRoomVersion)
	}
	return errors.Is(err, errAfterSend)
}

// errAfterSend marks failures after the other server took the event: with another
// server the same event would be made a second time.
var errAfterSend = errors.New("after the other server took the event")

// joinVia does steps 3 to 6 with one server.
func (s *Server) joinVia(ctx context.Context, req api.SetMembership, server id.Server) (id.Event, error) {
	h := &handshake{s: s, req: req, make: func(ctx context.Context, server id.Server) (*fedclient.Template, error) {
		return s.cfg.Remote.MakeJoin(ctx, server, req.Room, req.Target, event.Versions())
	}}
	ev, err := h.prepare(ctx, server)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishJoin)
	defer cancel()
	_, resident, err := s.residence(ctx, req.Room)
	if err != nil {
		return "", err
	}
	sp := newSpool(ev.Rules, req.Room)
	defer s.closeSpool(sp)
	res, err := s.cfg.Remote.SendJoin(ctx, server, req.Room, ev.ID, ev.JSON(), resident, func(list fedclient.List, raw json.RawMessage) error {
		switch {
		case resident:
			return nil // a restricted join: we have the state
		case list == fedclient.State:
			return sp.AddState(raw)
		default:
			return sp.AddAuth(raw)
		}
	})
	if err != nil {
		return "", err
	}
	if res.Event != nil {
		// It bears the signature that a restricted join needs.
		signed, err := event.Parse(res.Event, ev.Rules)
		if err != nil || signed.ID != ev.ID || signed.Redacted() {
			return "", errors.Join(merr.New(502, "M_UNKNOWN", "%s sent back another event than the join", server), errAfterSend, err)
		}
		ev = signed
	}
	if resident {
		err = s.input(ctx, server, []*event.Event{ev}, inputPushed)[ev.ID]
	} else {
		_, err = s.storeJoinedRoom(ctx, ev.Rules, req.Room, server, ev, sp)
	}
	if err != nil {
		return "", fmt.Errorf("storing the room %s as %s sent it (%w): %w", req.Room, server, errAfterSend, err)
	}
	if !resident {
		log := s.log.WithField("room", req.Room).WithField("server", server)
		log.Info("joined a room over federation")
		s.inbound.aside(s.limits.CatchUp, func(ctx context.Context) {
			if err := s.catchUp(ctx, req, server); err != nil && ctx.Err() == nil {
				log.WithError(err).Info("what happened while the room was being joined was not asked for")
			}
		})
	}
	return ev.ID, nil
}

// prepare does steps 3 and 4: it gets a template from a server and makes the event of
// it. Of the template only the place in the graph is used, and who authorised a
// restricted join.
//
// spec: server-server §12 ("The joining server MUST also verify that the type, room_id, sender,
// state_key and content.membership fields have the expected values.")
func (h *handshake) prepare(ctx context.Context, server id.Server) (*event.Event, error) {
	t, err := h.make(ctx, server)
	if err != nil {
		return nil, err
	}
	malformed := func(what string, cause error) error {
		return errors.Join(merr.New(502, "M_UNKNOWN", "%s sent a template that is not what was asked for: %s", server, what), cause)
	}
	version := t.RoomVersion
	if version == "" {
		version = "1"
	}
	rules, err := event.Version(version)
	if err != nil {
		return nil, err
	}
	b, err := event.ParseProto(t.Event, rules)
	if err != nil {
		return nil, malformed("it is no event", err)
	}
	content, err := parseObject("the template", b.Content)
	if err != nil {
		return nil, malformed("it has no content", err)
	}
	switch {
	case b.Type != eventauth.TypeMember:
		return nil, malformed("the type", nil)
	case b.RoomID != h.req.Room:
		return nil, malformed("the room", nil)
	case b.Sender != h.req.Target || b.StateKey == nil || *b.StateKey != string(h.req.Target):
		return nil, malformed("the user", nil)
	case content.str("membership") != h.req.Membership:
		return nil, malformed("the membership", nil)
	}
	own, err := memberContent(h.req)
	if err != nil {
		return nil, err
	}
	made, err := parseObject("the content", own)
	if err != nil {
		return nil, err
	}
	if via, ok := content["join_authorised_via_users_server"]; ok && h.req.Membership == "join" && rules.RestrictedJoin {
		made["join_authorised_via_users_server"] = via
	}
	b.Content = made.raw()
	b.OriginServerTS = h.s.now()
	b.Redacts = ""
	return b.Build(h.s.cfg.ServerName, h.s.cfg.Key.ID, h.s.cfg.Key.Private)
}
