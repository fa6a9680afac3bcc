package clientapi

import (
	"context"
	"encoding/json"
	"errors"

	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// inherit takes over what a user has set for the predecessor of a room that the user
// came into: the push rule of the room, and its tags. What is set for the new room
// stays as it is. The user is in the room already, so that a failure is only logged.
//
// spec: client-server, Room Upgrades (Server behaviour): "notifications, tags, etc."
func (s *Server) inherit(ctx context.Context, user id.User, room id.Room) {
	old, err := s.predecessor(ctx, room)
	if err == nil && old != "" && old != room {
		err = errors.Join(s.inheritRule(ctx, user, old, room), s.inheritTags(ctx, user, old, room))
	}
	if err != nil {
		s.log.WithError(err).WithField("room", room).Warn("could not take over a user's settings from the room before the upgrade")
	}
}

// predecessor is the room that a room's create event names as the one before it; ""
// where there is none.
func (s *Server) predecessor(ctx context.Context, room id.Room) (id.Room, error) {
	content, err := s.currentContent(ctx, room, "m.room.create")
	if err != nil || content == nil {
		return "", err
	}
	var create struct {
		Predecessor struct {
			Room string `json:"room_id"`
		} `json:"predecessor"`
	}
	if json.Unmarshal(content, &create) != nil {
		return "", nil // not of the usual shape: no predecessor
	}
	old, err := id.ParseRoom(create.Predecessor.Room)
	if err != nil {
		return "", nil
	}
	return old, nil
}

func (s *Server) inheritRule(ctx context.Context, user id.User, old, room id.Room) error {
	// Most users have no rule for the old room: that is not worth a transaction.
	rules, err := s.pushRules(ctx, s.db, user)
	if err != nil || indexRule(rules.Room, string(old)) < 0 {
		return err
	}
	return s.changeRules(ctx, user, func(rules *ruleset) error {
		i := indexRule(rules.Room, string(old))
		if i < 0 || indexRule(rules.Room, string(room)) >= 0 {
			return errUnchanged
		}
		rule := rules.Room[i]
		rule.ID = string(room)
		changed, err := placeRule(rules.Room, rule, "", "")
		if errors.Is(err, merr.ErrResourceLimitExceeded) {
			return errUnchanged
		}
		rules.Room = changed
		return err
	})
}

func (s *Server) inheritTags(ctx context.Context, user id.User, old, room id.Room) error {
	was, err := s.readTags(ctx, s.db, user, old)
	if err != nil || len(was.Tags) == 0 {
		return err
	}
	return s.changeAccountData(ctx, user, room, typeTag, func(tx *sqldb.Tx) (json.RawMessage, error) {
		now, err := s.readTags(ctx, tx, user, room)
		if err != nil {
			return nil, err
		}
		if len(now.Tags) > 0 {
			return nil, errUnchanged
		}
		return json.Marshal(was)
	})
}
