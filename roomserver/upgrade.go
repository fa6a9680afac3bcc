package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

// maxCarried bounds the events that a room hands down to its successor: bans and, of a
// space, children.
const maxCarried = 10_000

// carriedTypes are the state events that a successor gets, with state key "".
//
// spec: client-server §11.28 (Room upgrades: "the recommended state events to transfer")
func carriedTypes() []string {
	return []string{
		"m.room.server_acl", "m.room.encryption", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.guest_access",
		"m.room.history_visibility", eventauth.TypeJoinRules, "m.room.policy",
	}
}

// upgrade is an upgrade under way.
type upgrade struct {
	s     *Server
	req   api.UpgradeRoom
	rules *event.Rules
	// old is the room as it was when the upgrade was allowed, state its current state.
	old      *eventstore.Room
	state    *eventstore.State
	creators []id.User // of the new room, where they are privileged
	specs    []eventSpec
}

// UpgradeRoom implements api.Rooms:
//
//  1. the user may send a tombstone
//  2. the new room's events: create with predecessor, the user's join, what is carried over,
//     bans, and last the power levels: before there are any, its creator may do all
//  3. the new room is stored; in the same transaction the local aliases and the place in the
//     public room list move to it
//  4. the tombstone in the old room
//  5. as far as the user may: no canonical alias in the old room, and nobody speaks
//     there any more
//
// spec: client-server §11.28 (Room upgrades)
func (s *Server) UpgradeRoom(ctx context.Context, req api.UpgradeRoom) (id.Room, error) {
	rules, err := event.Version(req.NewVersion)
	if err != nil {
		return "", err
	}
	u := &upgrade{s: s, req: req, rules: rules}
	if err := u.allowed(ctx); err != nil {
		return "", err
	}
	if err := u.plan(ctx); err != nil {
		return "", err
	}
	var successor id.Room
	if !rules.RoomIDIsCreateHash {
		successor = newRoomID(s.cfg.ServerName)
	}
	events, err := s.createRoom(ctx, rules, successor, u.specs, u.move)
	if err != nil {
		return "", asRoomState(err)
	}
	successor = events[0].RoomID
	// From here on there is a new room: what is left must not depend on the client.
	ctx = context.WithoutCancel(ctx)
	_, err = s.sendLocal(ctx, req.Room, sendOptions{}, func(context.Context, *roomView) ([]eventSpec, error) {
		return []eventSpec{u.tombstone(successor)}, nil
	})
	if err != nil {
		return "", fmt.Errorf("the tombstone of %s, whose successor is %s: %w", req.Room, successor, err)
	}
	for _, close := range []func(context.Context, *roomView) ([]eventSpec, error){u.dropCanonicalAlias, u.silence} {
		if _, err := s.sendLocal(ctx, req.Room, sendOptions{}, close); err != nil && !errors.Is(err, merr.ErrForbidden) {
			s.log.WithError(err).WithField("room", req.Room).Warn("an upgraded room was not closed in full")
		}
	}
	return successor, nil
}

func (u *upgrade) tombstone(successor id.Room) eventSpec {
	return eventSpec{Type: "m.room.tombstone", StateKey: stateKey(""), Sender: u.req.User, Content: contentOf(map[string]any{
		"body": "This room has been replaced", "replacement_room": successor,
	})}
}

// allowed is step 1.
func (u *upgrade) allowed(ctx context.Context) error {
	_, resident, err := u.s.residence(ctx, u.req.Room)
	if err != nil {
		return err
	}
	if !resident {
		return merr.NotFound("this server is not in the room %s", u.req.Room)
	}
	return u.s.inRoom(ctx, u.req.Room, func(ctx context.Context, v *roomView) error {
		ev, err := u.s.buildOnly(ctx, v, u.tombstone("!successor"))
		if err != nil {
			return err
		}
		u.old = v.Room()
		u.state = u.s.store.State(v.Root())
		return v.CheckAuth(ctx, ev)
	})
}

func (u *upgrade) add(typ, key string, content json.RawMessage) {
	u.specs = append(u.specs, eventSpec{Type: typ, StateKey: stateKey(key), Sender: u.req.User, Content: content})
}

// plan is step 2.
func (u *upgrade) plan(ctx context.Context) error {
	if err := u.planCreate(ctx); err != nil {
		return err
	}
	profile, err := parseObject("the profile", u.req.Profile)
	if err != nil {
		return err
	}
	profile.set("membership", "join")
	u.add(eventauth.TypeMember, string(u.req.User), profile.raw())
	for _, typ := range carriedTypes() {
		e, err := u.state.Get(ctx, typ, "")
		if err != nil {
			return err
		}
		if e != nil {
			u.carry(typ, "", e.Content())
		}
	}
	if err := u.carryAliases(ctx); err != nil {
		return err
	}
	if err := u.carryMany(ctx); err != nil {
		return err
	}
	return u.planPowerLevels(ctx)
}

// carry takes a state event over, unless the new version does not accept it.
func (u *upgrade) carry(typ, key string, content []byte) {
	if typ == eventauth.TypeJoinRules {
		content = u.joinRules(content)
	}
	if u.rules.StrictCanonicalJSON {
		if _, err := canonical.Canonical(content); err != nil {
			u.s.log.WithError(err).WithField("room", u.old.ID).WithField("type", typ).Info("a state event cannot be carried over to the new room version")
			return
		}
	}
	u.add(typ, key, content)
}

// joinRules keeps a room closed whose join rule the new version does not know.
func (u *upgrade) joinRules(content []byte) []byte {
	known := true
	switch gjson.GetBytes(content, "join_rule").Str {
	case "knock":
		known = u.rules.Knock
	case "restricted":
		known = u.rules.RestrictedJoin
	case "knock_restricted":
		known = u.rules.KnockRestricted
	}
	if known {
		return content
	}
	return contentOf(map[string]any{"join_rule": "invite"})
}

func (u *upgrade) planCreate(ctx context.Context) error {
	old, err := u.state.Get(ctx, eventauth.TypeCreate, "")
	if err != nil {
		return err
	}
	if old == nil {
		return merr.NotFound("the room %s has no create event", u.req.Room)
	}
	predecessor := map[string]any{"room_id": u.req.Room}
	// spec: "When upgrading to room version 12 or later, the event_id property inside predecessor MAY
	// be omitted."
	if last, err := u.s.store.Events(ctx, u.old.Extremities); err != nil {
		return err
	} else if len(last) > 0 && !u.rules.RoomIDIsCreateHash {
		predecessor["event_id"] = last[len(last)-1].ID
	}
	content := object{}
	content.set("room_version", u.rules.Version)
	content.set("predecessor", predecessor)
	before, err := parseObject("the create event", old.Content())
	if err != nil {
		return err
	}
	for _, key := range []string{"type", "m.federate"} {
		if value, ok := before[key]; ok {
			content[key] = value
		}
	}
	if u.rules.CreatorInContent {
		content.set("creator", u.req.User)
	}
	if u.rules.CreatorsPrivileged {
		more, err := uniqueUsers(u.req.AdditionalCreators, u.req.User)
		if err != nil {
			return err
		}
		u.creators = append([]id.User{u.req.User}, more...)
		if len(more) > 0 {
			content.set("additional_creators", more)
		}
	}
	u.add(eventauth.TypeCreate, "", content.raw())
	return nil
}

// carryAliases takes the canonical alias over, as far as the aliases move.
func (u *upgrade) carryAliases(ctx context.Context) error {
	old, err := u.state.Get(ctx, "m.room.canonical_alias", "")
	if err != nil || old == nil {
		return err
	}
	content := old.Content()
	all, err := aliasesOf(content)
	if err != nil || len(all) == 0 {
		return nil // whatever it says, it names no alias that could move
	}
	kept := json.RawMessage(content)
	for _, alias := range all {
		a, err := u.s.store.Alias(ctx, alias)
		if err != nil && !errors.Is(err, merr.ErrNotFound) {
			return err
		}
		if err != nil || a.Room != u.old.NID {
			kept, _ = withoutAlias(kept, alias)
		}
	}
	u.carry("m.room.canonical_alias", "", kept)
	return nil
}

// carryMany takes over bans, and the children of a space.
func (u *upgrade) carryMany(ctx context.Context) error {
	types := []string{eventauth.TypeMember}
	if gjson.GetBytes(u.specs[0].Content, "type").Str == "m.space" {
		types = append(types, "m.space.child")
	}
	n := 0
	return u.state.List(ctx, func(e *eventstore.Event) error {
		if e.Type == eventauth.TypeMember {
			if e.Membership() != "ban" || e.StateKey == string(u.req.User) {
				return nil
			}
		} else if !gjson.GetBytes(e.Content(), "via").IsArray() {
			return nil // a child that was taken out
		}
		if n++; n > maxCarried {
			u.s.log.WithField("room", u.old.ID).Warnf("more than %d bans and children; the rest is not carried over", maxCarried)
			return statetree.Stop
		}
		u.carry(e.Type, e.StateKey, e.Content())
		return nil
	}, types...)
}

// planPowerLevels carries the power levels over, in a form that the new version
// accepts.
func (u *upgrade) planPowerLevels(ctx context.Context) error {
	old, err := u.state.Get(ctx, eventauth.TypePowerLevels, "")
	if err != nil {
		return err
	}
	levels := object{}
	if old != nil {
		if levels, err = parseObject("the power levels", old.Content()); err != nil {
			return err
		}
	}
	levels = readableLevels(levels)
	users, err := parseObject("users of the power levels", levels["users"])
	if err != nil {
		return err
	}
	if u.rules.CreatorsPrivileged {
		for _, c := range u.creators {
			delete(users, string(c))
		}
		if err := raiseTombstone(levels); err != nil {
			return err
		}
	} else if err := u.formerCreators(ctx, users, old == nil); err != nil {
		return err
	}
	levels["users"] = users.raw()
	u.add(eventauth.TypePowerLevels, "", levels.raw())
	return nil
}

// formerCreators gives a power level to those who had their power as creators of the
// old room, and to its creator if it had no power levels.
func (u *upgrade) formerCreators(ctx context.Context, users object, none bool) error {
	create, err := u.state.Get(ctx, eventauth.TypeCreate, "")
	if err != nil {
		return err
	}
	if none {
		users.set(string(u.req.User), 100)
	}
	if !u.old.Rules.CreatorsPrivileged {
		return nil
	}
	list := []string{string(create.Sender)}
	for _, c := range gjson.GetBytes(create.Content(), "additional_creators").Array() {
		list = append(list, c.Str)
	}
	for _, c := range list {
		if have, ok := users.level(c); !ok || have < 100 {
			users.set(c, 100)
		}
	}
	return nil
}

// readableLevels turns power levels that are strings or floats, as old versions accept,
// into integers, and drops what is no level at all.
//
// spec: rooms/v10 (Values in m.room.power_levels events must be integers)
func readableLevels(levels object) object {
	out := object{}
	for key, value := range levels {
		switch key {
		case "users", "events", "notifications":
			list, err := parseObject(key, value)
			if err != nil {
				continue
			}
			for k, v := range list {
				if n, ok := integerLevel(v); ok {
					list.set(k, n)
				} else {
					delete(list, k)
				}
			}
			out[key] = list.raw()
		case "users_default", "events_default", "state_default", "ban", "kick", "redact", "invite":
			if n, ok := integerLevel(value); ok {
				out.set(key, n)
			}
		}
	}
	return out
}

// integerLevel reads a power level of any old form.
func integerLevel(raw json.RawMessage) (int64, bool) {
	const limit = 1<<53 - 1
	v := gjson.ParseBytes(raw)
	var f float64
	switch v.Type {
	case gjson.Number:
		f = math.Trunc(v.Num)
	case gjson.String:
		n, err := strconv.ParseInt(strings.TrimSpace(v.Str), 10, 64)
		if err != nil {
			return 0, false
		}
		f = float64(n)
	default:
		return 0, false
	}
	if math.Abs(f) > limit {
		return 0, false
	}
	return int64(f), true
}

// move is part of step 3.
func (u *upgrade) move(ctx context.Context, tx *sqldb.Tx, successor nid.Room) error {
	out, list := u.s.writer, eventstore.List{}
	if err := out.MoveAliases(ctx, tx, u.old.NID, successor); err != nil {
		return err
	}
	published, err := u.s.store.Uncommitted(tx).Published(ctx, u.old.NID, list)
	if err != nil || !published {
		return err
	}
	if err := out.SetPublished(ctx, tx, u.old.NID, list, false); err != nil {
		return err
	}
	return out.SetPublished(ctx, tx, successor, list, true)
}

// dropCanonicalAlias is part of step 5: the aliases lead to the new room now.
func (u *upgrade) dropCanonicalAlias(ctx context.Context, v *roomView) ([]eventSpec, error) {
	old, err := v.State(ctx, "m.room.canonical_alias", "")
	if err != nil || old == nil || string(old.Content()) == "{}" {
		return nil, err
	}
	return []eventSpec{{Type: "m.room.canonical_alias", StateKey: stateKey(""), Sender: u.req.User, Content: json.RawMessage("{}")}}, nil
}

// silence is the rest of step 5.
//
// spec: client-server §11.28 ("setting events_default and invite to the greater of 50 and
// users_default + 1")
func (u *upgrade) silence(ctx context.Context, v *roomView) ([]eventSpec, error) {
	old, err := v.State(ctx, eventauth.TypePowerLevels, "")
	if err != nil || old == nil {
		return nil, err
	}
	levels, err := parseObject("the power levels", old.Content())
	if err != nil {
		return nil, err
	}
	users, _ := levels.level("users_default")
	wanted := max(50, users+1)
	changed := false
	for _, key := range []string{"events_default", "invite"} {
		if have, ok := levels.level(key); !ok || have < wanted {
			levels.set(key, wanted)
			changed = true
		}
	}
	if !changed {
		return nil, nil
	}
	return []eventSpec{{Type: eventauth.TypePowerLevels, StateKey: stateKey(""), Sender: u.req.User, Content: levels.raw()}}, nil
}
