package eventstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/tidwall/gjson"

	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	aliasSQL       = `SELECT a.room_nid, r.room_id, a.creator FROM room_aliases a JOIN rooms r ON r.room_nid = a.room_nid WHERE a.alias = $1`
	aliasesSQL     = `SELECT alias FROM room_aliases WHERE room_nid = $1 ORDER BY alias`
	publishedSQL   = `SELECT COUNT(*) FROM published_rooms WHERE appservice = $1 AND network = $2 AND room_nid = $3`
	publicCountSQL = `SELECT COUNT(*) FROM published_rooms WHERE appservice = $1 AND network = $2`
	publicSQL      = `SELECT r.room_nid, r.revision, r.depth, r.stub, r.joined, r.invited, r.unordered, r.room_id, r.version, r.current_state, r.extremities
		FROM published_rooms p JOIN rooms r ON r.room_nid = p.room_nid
		WHERE p.appservice = $1 AND p.network = $2 AND (r.joined < $3 OR r.joined = $3 AND r.room_nid > $4)
		ORDER BY r.joined DESC, r.room_nid LIMIT $5`
)

// Alias is a local alias and the room it points to.
type Alias struct {
	Alias   id.RoomAlias
	Room    nid.Room
	RoomID  id.Room
	Creator id.User
}

// Alias looks up a local alias. One that does not exist is M_NOT_FOUND.
func (r *Reader) Alias(ctx context.Context, alias id.RoomAlias) (Alias, error) {
	a := Alias{Alias: alias}
	err := r.q.QueryRow(ctx, aliasSQL, string(alias)).Scan(&a.Room, &a.RoomID, &a.Creator)
	if errors.Is(err, sql.ErrNoRows) {
		return a, merr.NotFound("the alias %s does not exist", alias)
	}
	if err != nil {
		return a, fmt.Errorf("eventstore: alias: %w", err)
	}
	return a, nil
}

// Aliases lists the local aliases of a room.
func (r *Reader) Aliases(ctx context.Context, room nid.Room) ([]id.RoomAlias, error) {
	return texts[id.RoomAlias](ctx, r, aliasesSQL, int64(room))
}

// List names a list of public rooms. The zero List is the server's own; the others
// belong to the networks of application services.
type List struct{ AppService, Network string }

// Published tells whether a room is in a list of public rooms.
func (r *Reader) Published(ctx context.Context, room nid.Room, list List) (bool, error) {
	var n int64
	if err := r.q.QueryRow(ctx, publishedSQL, list.AppService, list.Network, int64(room)).Scan(&n); err != nil {
		return false, fmt.Errorf("eventstore: published room: %w", err)
	}
	return n > 0, nil
}

// PublicCursor is a place in a list of public rooms: after the room with that
// number and count of members. The zero cursor is the beginning.
type PublicCursor struct {
	Joined int64
	Room   nid.Room
}

// PublicRooms gives a page of a list, rooms with the most members first.
func (r *Reader) PublicRooms(ctx context.Context, list List, after PublicCursor, limit int) ([]*Room, error) {
	if after == (PublicCursor{}) {
		after.Joined = math.MaxInt64
	}
	var out []*Room
	err := r.rows(ctx, publicSQL, []any{list.AppService, list.Network, after.Joined, int64(after.Room), limit}, func(row func(...any) error) error {
		room, err := scanRoom(row)
		out = append(out, room)
		return err
	})
	return out, err
}

// CountPublicRooms gives the length of a list.
func (r *Reader) CountPublicRooms(ctx context.Context, list List) (int64, error) {
	var n int64
	if err := r.q.QueryRow(ctx, publicCountSQL, list.AppService, list.Network).Scan(&n); err != nil {
		return 0, fmt.Errorf("eventstore: public rooms: %w", err)
	}
	return n, nil
}

// Summary is what a room shows of itself to those outside.
type Summary struct {
	Name, Topic, AvatarURL string
	CanonicalAlias         id.RoomAlias
	JoinRule               string // "invite" when there is none
	HistoryVisibility      string // "shared" when there is none
	GuestAccess            string // "forbidden" when there is none
	Encryption             string // the algorithm, empty when not encrypted
	RoomType               string // of the create event
	// AllowedRooms are the rooms whose members may join a restricted room.
	AllowedRooms []id.Room
}

// Summaries reads what rooms show of themselves, in the order of the rooms: a few
// queries for all of them.
func (r *Reader) Summaries(ctx context.Context, rooms []*Room) ([]Summary, error) {
	types := []nid.Type{nid.TypeCreate, nid.TypeName, nid.TypeTopic, nid.TypeAvatar, nid.TypeCanonicalAlias,
		nid.TypeJoinRules, nid.TypeHistoryVisibility, nid.TypeGuestAccess, nid.TypeEncryption}
	lookups := make([]statetree.Lookup, 0, len(rooms)*len(types))
	for _, room := range rooms {
		for _, t := range types {
			lookups = append(lookups, statetree.Lookup{Root: room.CurrentState, Key: statetree.Key{Type: t, StateKey: nid.EmptyStateKey}})
		}
	}
	nids, err := statetree.GetEach(ctx, r, lookups)
	if err != nil {
		return nil, err
	}
	events, err := r.Events(ctx, present(nids))
	if err != nil {
		return nil, err
	}
	byNID := make(map[nid.Event]*Event, len(events))
	for _, e := range events {
		byNID[e.NID] = e
	}
	out := make([]Summary, len(rooms))
	for i := range rooms {
		s := Summary{JoinRule: "invite", HistoryVisibility: defaultVisibility, GuestAccess: "forbidden"}
		for j, t := range types {
			if e := byNID[nids[i*len(types)+j]]; e != nil {
				s.take(t, e.Content())
			}
		}
		out[i] = s
	}
	return out, nil
}

// take puts the content of one state event into the summary. Values of a wrong
// type count as absent.
func (s *Summary) take(t nid.Type, content []byte) {
	set := func(to *string, path string) {
		if v := gjson.GetBytes(content, path); v.Type == gjson.String && v.Str != "" {
			*to = v.Str
		}
	}
	switch t {
	case nid.TypeCreate:
		set(&s.RoomType, "type")
	case nid.TypeName:
		set(&s.Name, "name")
	case nid.TypeTopic:
		set(&s.Topic, "topic")
	case nid.TypeAvatar:
		set(&s.AvatarURL, "url")
	case nid.TypeCanonicalAlias:
		set((*string)(&s.CanonicalAlias), "alias")
	case nid.TypeHistoryVisibility:
		s.HistoryVisibility = visibilityOf(content)
	case nid.TypeGuestAccess:
		set(&s.GuestAccess, "guest_access")
	case nid.TypeEncryption:
		set(&s.Encryption, "algorithm")
	case nid.TypeJoinRules:
		set(&s.JoinRule, "join_rule")
		for _, a := range gjson.GetBytes(content, "allow").Array() {
			if a.Get("type").Str == "m.room_membership" && a.Get("room_id").Type == gjson.String {
				s.AllowedRooms = append(s.AllowedRooms, id.Room(a.Get("room_id").Str))
			}
		}
	}
}

const (
	inviteSQL   = `SELECT state FROM invite_state WHERE room_nid = $1 AND user_nid = $2`
	backwardSQL = `SELECT b.missing, b.event_nid, e.depth FROM backward_extremities b JOIN events e ON e.event_nid = b.event_nid
		WHERE b.room_nid = $1 ORDER BY e.depth DESC, b.missing LIMIT $2`
	amongBackwardSQL = `SELECT DISTINCT missing FROM backward_extremities WHERE room_nid = $1 AND missing IN `
)

// InviteState gives the stripped state that came with a user's invite or knock, nil
// when there is none.
func (r *Reader) InviteState(ctx context.Context, room nid.Room, user id.User) ([][]byte, error) {
	n, err := r.UserNID(ctx, user)
	if err != nil || n == 0 {
		return nil, err
	}
	var stored []byte
	err = r.q.QueryRow(ctx, inviteSQL, int64(room), int64(n)).Scan(&stored)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("eventstore: invite state: %w", err)
	}
	raw, err := r.codec.Decode(stored)
	if err != nil {
		return nil, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("eventstore: invite state: %w", err)
	}
	out := make([][]byte, len(list))
	for i, e := range list {
		out[i] = e
	}
	return out, nil
}

// maxBackward bounds the backward extremities that are read.
const maxBackward = 10_000

// BackwardExtremities lists where a room's history stops, latest (by depth) first.
func (r *Reader) BackwardExtremities(ctx context.Context, room nid.Room) ([]BackwardExtremity, error) {
	var out []BackwardExtremity
	err := r.rows(ctx, backwardSQL, []any{int64(room), maxBackward}, func(row func(...any) error) error {
		var b BackwardExtremity
		var missing []byte
		if err := row(&missing, &b.Event, &b.Depth); err != nil {
			return err
		}
		var err error
		b.Missing, err = DecodeEventID(missing)
		out = append(out, b)
		return err
	})
	return out, err
}

// BackwardAmong gives those of some events that are not here and that events here name as
// parents.
func (r *Reader) BackwardAmong(ctx context.Context, room nid.Room, events []id.Event) (map[id.Event]bool, error) {
	out := make(map[id.Event]bool)
	err := r.chunked(ctx, amongBackwardSQL, []any{int64(room)}, encodedIDs(events), func(row func(...any) error) error {
		var missing []byte
		if err := row(&missing); err != nil {
			return err
		}
		e, err := DecodeEventID(missing)
		out[e] = true
		return err
	})
	return out, err
}

func encodedIDs(events []id.Event) []any {
	out := make([]any, len(events))
	for i, e := range events {
		out[i] = EncodeEventID(e)
	}
	return out
}
