package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"weft/internal/eventstore"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

// maxAliasServers bounds the servers that an alias is answered with.
const maxAliasServers = 50

// ResolveAlias implements api.Directory.
//
// spec: client-server §10.2 (Room aliases); server-server §18 (GET /query/directory)
func (s *Server) ResolveAlias(ctx context.Context, alias id.RoomAlias) (api.ResolvedAlias, error) {
	if alias.Server() != s.cfg.ServerName {
		found, err := s.cfg.Remote.QueryDirectory(ctx, alias)
		if err != nil {
			return api.ResolvedAlias{}, err
		}
		servers := found.Servers
		if !slices.Contains(servers, alias.Server()) {
			servers = append(servers, alias.Server())
		}
		return api.ResolvedAlias{Room: found.RoomID, Servers: servers[:min(len(servers), maxAliasServers)]}, nil
	}
	a, err := s.store.Alias(ctx, alias)
	if err != nil {
		return api.ResolvedAlias{}, err
	}
	all, err := s.store.Servers(ctx, a.Room)
	if err != nil {
		return api.ResolvedAlias{}, err
	}
	// This server first: whoever asks knows that it answers.
	servers := []id.Server{s.cfg.ServerName}
	for _, server := range all {
		if server != s.cfg.ServerName && len(servers) < maxAliasServers {
			servers = append(servers, server)
		}
	}
	return api.ResolvedAlias{Room: a.RoomID, Servers: servers}, nil
}

// CreateAlias implements api.Directory.
func (s *Server) CreateAlias(ctx context.Context, alias id.RoomAlias, room id.Room, creator id.User) error {
	if alias.Server() != s.cfg.ServerName {
		return merr.InvalidParam("the alias %s is not of this server", alias)
	}
	r, err := s.store.Room(ctx, room)
	if err != nil {
		return err
	}
	if r.Stub {
		return merr.NotFound("this server is not in the room %s", room)
	}
	return s.db.Update(ctx, func(tx *sqldb.Tx) error {
		return s.writer.CreateAlias(ctx, tx, alias, r.NID, creator, s.now())
	})
}

// DeleteAlias implements api.Directory. If the user may, the alias is taken out of the
// room's canonical alias event too.
func (s *Server) DeleteAlias(ctx context.Context, alias id.RoomAlias, by id.User) error {
	a, err := s.store.Alias(ctx, alias)
	if err != nil {
		return err
	}
	if a.Creator != by {
		if err := s.mayDeleteAlias(ctx, a, by); err != nil {
			return err
		}
	}
	if err := s.db.Update(ctx, func(tx *sqldb.Tx) error { return s.writer.DeleteAlias(ctx, tx, alias) }); err != nil {
		return err
	}
	err = s.dropFromCanonical(ctx, a, by)
	if err != nil && !errors.Is(err, merr.ErrForbidden) && !errors.Is(err, merr.ErrNotFound) {
		// The alias is gone, which is what was asked for.
		s.log.WithError(err).WithField("room", a.RoomID).Warn("a deleted alias stays in the canonical alias event")
	}
	return nil
}

// mayDeleteAlias demands that a user may send m.room.canonical_alias in the alias's room.
func (s *Server) mayDeleteAlias(ctx context.Context, a eventstore.Alias, by id.User) error {
	denied := merr.Forbidden("%s may not delete the alias %s", by, a.Alias)
	err := s.inRoom(ctx, a.RoomID, func(ctx context.Context, v *roomView) error {
		membership, _, err := v.Membership(ctx, by)
		if err != nil {
			return err
		}
		levels, err := v.levels(ctx)
		if err != nil {
			return err
		}
		if membership != "join" || levels.User(by) < levels.Event("m.room.canonical_alias", true) {
			return denied
		}
		return nil
	})
	if errors.Is(err, merr.ErrNotFound) {
		return errors.Join(denied, err)
	}
	return err
}

func (s *Server) dropFromCanonical(ctx context.Context, a eventstore.Alias, by id.User) error {
	_, err := s.sendLocal(ctx, a.RoomID, sendOptions{}, func(ctx context.Context, v *roomView) ([]eventSpec, error) {
		old, err := v.State(ctx, "m.room.canonical_alias", "")
		if err != nil || old == nil {
			return nil, err
		}
		content, changed := withoutAlias(old.Content(), a.Alias)
		if !changed {
			return nil, nil
		}
		return []eventSpec{{Type: "m.room.canonical_alias", StateKey: stateKey(""), Sender: by, Content: content}}, nil
	})
	return err
}

// withoutAlias takes an alias out of the content of a canonical alias event.
func withoutAlias(raw json.RawMessage, alias id.RoomAlias) (json.RawMessage, bool) {
	content, err := parseObject("the canonical alias", raw)
	if err != nil {
		return raw, false
	}
	changed := false
	if content.str("alias") == string(alias) {
		delete(content, "alias")
		changed = true
	}
	var alt []json.RawMessage
	if json.Unmarshal(content["alt_aliases"], &alt) == nil {
		kept := slices.DeleteFunc(alt, func(v json.RawMessage) bool {
			var s string
			return json.Unmarshal(v, &s) == nil && s == string(alias)
		})
		if len(kept) != len(alt) {
			changed = true
			delete(content, "alt_aliases")
			if len(kept) > 0 {
				content.set("alt_aliases", kept)
			}
		}
	}
	return content.raw(), changed
}

// ListAliases implements api.Directory.
func (s *Server) ListAliases(ctx context.Context, room id.Room) ([]id.RoomAlias, error) {
	r, err := s.store.Room(ctx, room)
	if err != nil {
		return nil, err
	}
	return s.store.Aliases(ctx, r.NID)
}

// SetPublished implements api.Directory.
func (s *Server) SetPublished(ctx context.Context, room id.Room, published bool) error {
	r, err := s.store.Room(ctx, room)
	if err != nil {
		return err
	}
	if r.Stub {
		return merr.NotFound("this server is not in the room %s", room)
	}
	return s.db.Update(ctx, func(tx *sqldb.Tx) error {
		return s.writer.SetPublished(ctx, tx, r.NID, eventstore.List{}, published)
	})
}

// IsPublished implements api.Directory.
func (s *Server) IsPublished(ctx context.Context, room id.Room) (bool, error) {
	r, err := s.store.Room(ctx, room)
	if err != nil {
		return false, err
	}
	return s.store.Published(ctx, r.NID, eventstore.List{})
}
