package syncapi

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	fedapi "weft/federationapi/api"
	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/syncapi/api"
)

// maxPresencePush bounds the users of one EDU.
const maxPresencePush = 1000

// SetPresence is PUT /presence/{userId}/status.
func (s *Server) SetPresence(ctx context.Context, r *httpapi.Request) (any, error) {
	if err := ownUser(r); err != nil {
		return nil, err
	}
	var body struct {
		Presence string `json:"presence"`
		Status   string `json:"status_msg"`
	}
	if err := r.DecodeJSON(&body); err != nil {
		return nil, err
	}
	switch body.Presence {
	case presenceOnline, presenceUnavailable, presenceOffline:
	case "":
		return nil, merr.MissingParam("presence is missing")
	default:
		return nil, merr.InvalidParam("presence is none of online, unavailable and offline")
	}
	if len(body.Status) > maxStatus {
		return nil, merr.TooLarge("status_msg is longer than %d bytes", maxStatus)
	}
	return nil, s.presence.update(ctx, r.Session.User, func(u *userPresence) (string, string) {
		u.idle, u.seen = false, s.now()
		if body.Presence == presenceOnline {
			u.active = s.now()
		}
		return body.Presence, body.Status
	})
}

// GetPresenceStatus is GET /presence/{userId}/status.
func (s *Server) GetPresenceStatus(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := r.UserVar("userId")
	if err != nil {
		return nil, err
	}
	if user != r.Session.User {
		sharing, err := s.sharing(ctx, r.Session.User, map[id.User]bool{user: true})
		if err != nil {
			return nil, err
		}
		if !sharing[user] {
			return nil, merr.Forbidden("you share no room with %s", user)
		}
	}
	p, _ := s.presence.get(user)
	o := new(output)
	b := o.open()
	b.presence(p)
	b.close()
	return httpapi.Response{Raw: o.buf}, nil
}

// GetPresence implements api.Sync. Of a user that nothing is known of it says offline.
func (s *Server) GetPresence(_ context.Context, user id.User) (api.Presence, error) {
	p, _ := s.presence.get(user)
	return p, nil
}

// presenceEDU is the content of the EDU m.presence.
//
// spec: server-server §13 (Presence)
type presenceEDU struct {
	Push []api.Presence `json:"push"`
}

// sendPresence tells the servers that share a room with a local user of the user's presence.
func (s *Server) sendPresence(ctx context.Context, user id.User) error {
	if s.cfg.Outbound == nil || !s.isLocal(user) {
		return nil
	}
	servers, err := s.events.ServersSharingRoomsWith(ctx, user)
	if err != nil {
		return err
	}
	servers = slices.DeleteFunc(servers, func(d id.Server) bool { return d == s.cfg.ServerName })
	if len(servers) == 0 {
		return nil
	}
	p, _ := s.presence.get(user)
	content, err := json.Marshal(presenceEDU{Push: []api.Presence{p}})
	if err != nil {
		return err
	}
	return s.cfg.Outbound.SendEDU(ctx, fedapi.EDU{Type: eduPresence, Content: content, Destinations: servers, Key: string(user)})
}

// receivePresence takes m.presence from another server. Users who share no room with one of
// ours are of no interest.
func (s *Server) receivePresence(ctx context.Context, origin id.Server, content json.RawMessage) error {
	var edu presenceEDU
	if err := json.Unmarshal(content, &edu); err != nil {
		return merr.BadJSON("%s: %v", eduPresence, err)
	}
	if len(edu.Push) > maxPresencePush {
		return merr.TooLarge("more than %d users", maxPresencePush)
	}
	for _, p := range edu.Push {
		if p.User.Server() != origin || len(p.StatusMsg) > maxStatus {
			continue
		}
		switch p.State {
		case presenceOnline, presenceUnavailable, presenceOffline:
		default:
			continue
		}
		sharing, err := s.events.LocalUsersSharingRoomsWith(ctx, p.User)
		if err != nil {
			return err
		}
		if len(sharing) == 0 {
			continue
		}
		msg := presenceChange{User: p.User, State: p.State, Status: p.StatusMsg}
		if p.LastActiveAgo > 0 || p.CurrentlyActive {
			msg.Active = s.now().Add(-time.Duration(min(p.LastActiveAgo, 1<<40)) * time.Millisecond).UnixMilli()
		}
		data, err := json.Marshal(s.presence.hear(msg))
		if err != nil {
			return err
		}
		s.cfg.Bus.Publish(topicPresence, data)
	}
	return nil
}
