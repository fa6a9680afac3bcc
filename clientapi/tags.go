package clientapi

import (
	"context"
	"encoding/json"
	"fmt"

	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	typeTag = "m.tag"
	maxTag  = 255
	// maxTags bounds the tags of one room.
	maxTags = 100
)

// tags is the content of m.tag.
//
// spec: client-server §10.14 (Room tagging)
type tags struct {
	Tags map[string]json.RawMessage `json:"tags"`
}

func (s *Server) readTags(ctx context.Context, q sqldb.Querier, user id.User, room id.Room) (tags, error) {
	t := tags{Tags: map[string]json.RawMessage{}}
	raw, err := readAccountData(ctx, q, user, room, typeTag)
	if err != nil || raw == nil {
		return t, err
	}
	// A client may have written anything under m.tag; what cannot be read
	// counts as no tags.
	var stored tags
	if json.Unmarshal(raw, &stored) == nil && stored.Tags != nil {
		t = stored
	}
	return t, nil
}

// GetRoomTags is GET …/tags.
func (s *Server) GetRoomTags(ctx context.Context, r *httpapi.Request) (any, error) {
	room, _, err := dataVars(r)
	if err != nil {
		return nil, err
	}
	return s.readTags(ctx, s.db, r.Session.User, room)
}

// SetRoomTag is PUT …/tags/{tag}.
func (s *Server) SetRoomTag(ctx context.Context, r *httpapi.Request) (any, error) {
	room, _, err := dataVars(r)
	if err != nil {
		return nil, err
	}
	tag := r.Vars["tag"]
	if len(tag) > maxTag {
		return nil, merr.InvalidParam("a tag has at most %d bytes", maxTag)
	}
	var order struct {
		Order *float64 `json:"order"`
	}
	if err := r.DecodeJSON(&order); err != nil {
		return nil, err
	}
	content, err := object(r.Body)
	if err != nil {
		return nil, err
	}
	if len(content) > maxEventContent {
		return nil, merr.TooLarge("a tag may have %d bytes", maxEventContent)
	}
	return nil, s.changeTags(ctx, r.Session.User, room, func(t tags) error {
		t.Tags[tag] = content
		if len(t.Tags) > maxTags {
			return merr.ResourceLimitExceeded("a room may have %d tags", maxTags)
		}
		return nil
	})
}

// DeleteRoomTag is DELETE …/tags/{tag}.
func (s *Server) DeleteRoomTag(ctx context.Context, r *httpapi.Request) (any, error) {
	room, _, err := dataVars(r)
	if err != nil {
		return nil, err
	}
	return nil, s.changeTags(ctx, r.Session.User, room, func(t tags) error {
		if _, ok := t.Tags[r.Vars["tag"]]; !ok {
			return errUnchanged
		}
		delete(t.Tags, r.Vars["tag"])
		return nil
	})
}

func (s *Server) changeTags(ctx context.Context, user id.User, room id.Room, change func(tags) error) error {
	return s.changeAccountData(ctx, user, room, typeTag, func(tx *sqldb.Tx) (json.RawMessage, error) {
		t, err := s.readTags(ctx, tx, user, room)
		if err != nil {
			return nil, err
		}
		if err := change(t); err != nil {
			return nil, err
		}
		raw, err := json.Marshal(t)
		if err != nil {
			return nil, fmt.Errorf("writing tags: %w", err)
		}
		return raw, nil
	})
}
