package roomserver

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
	"weft/roomserver/api"
)

const (
	// maxInitialEvents bounds what one request may put into a new room.
	maxInitialEvents = 1000
	// inviteConcurrency is how many servers of users invited to a new room are asked
	// at the same time.
	inviteConcurrency = 8
)

// roomPlan is a room that is about to be made.
type roomPlan struct {
	rules *event.Rules
	req   api.CreateRoom
	// room is empty where the ID is made from the create event.
	room  id.Room
	alias id.RoomAlias // empty: none
	specs []eventSpec
	// creators have their power by the create event alone (version 12 on).
	creators []id.User
	// remote are the invites that other servers must sign first.
	remote []remoteInvite
}

type remoteInvite struct {
	target  id.User
	content json.RawMessage
}

// CreateRoom implements api.Rooms. The events are made in this order:
//
//  1. m.room.create
//  2. the creator's join
//  3. m.room.power_levels
//  4. m.room.canonical_alias
//  5. what the preset sets, unless initial_state does
//  6. initial_state
//  7. m.room.name, m.room.topic
//  8. invites of local users
//
// They are stored with the alias and the place in the public room list in one
// transaction. Users of other servers are invited after that. Such an invite can
// fail while the room is there and used by others, so its failure is logged and does not
// fail the request.
//
// spec: client-server §10.1 (Creation)
func (s *Server) CreateRoom(ctx context.Context, req api.CreateRoom) (id.Room, error) {
	rules, err := event.Version(cmp.Or(req.RoomVersion, event.DefaultVersion))
	if err != nil {
		return "", err
	}
	p := &roomPlan{rules: rules, req: req}
	if err := s.planRoom(p); err != nil {
		return "", err
	}
	if p.alias != "" {
		_, err := s.store.Alias(ctx, p.alias)
		if err == nil {
			return "", merr.RoomInUse("the alias %s is taken", p.alias)
		}
		if !errors.Is(err, merr.ErrNotFound) {
			return "", err
		}
	}
	events, err := s.createRoom(ctx, rules, p.room, p.specs, func(ctx context.Context, tx *sqldb.Tx, room nid.Room) error {
		return s.announce(ctx, tx, p, room)
	})
	if err != nil {
		return "", asRoomState(err)
	}
	room := events[0].RoomID
	s.inviteAll(context.WithoutCancel(ctx), room, p)
	return room, nil
}

// announce puts a new room into the directory, in the transaction that makes it.
func (s *Server) announce(ctx context.Context, tx *sqldb.Tx, p *roomPlan, room nid.Room) error {
	if p.alias != "" {
		err := s.writer.CreateAlias(ctx, tx, p.alias, room, p.req.Creator, s.now())
		if errors.Is(err, merr.ErrUnknown) {
			return merr.RoomInUse("the alias %s is taken", p.alias)
		}
		if err != nil {
			return err
		}
	}
	if p.req.Visibility == "public" {
		return s.writer.SetPublished(ctx, tx, room, eventstore.List{}, true)
	}
	return nil
}

// asRoomState turns what the rules refuse into the error that the endpoint has for it.
//
// spec: client-server §10.1 ("The initial state implied by the parameters to the
// request is invalid: … M_INVALID_ROOM_STATE")
func asRoomState(err error) error {
	var rule *eventauth.RuleError
	if errors.As(err, &rule) {
		return fmt.Errorf("%w: %w", merr.InvalidRoomState("%s", rule.Message), err)
	}
	return err
}

func (s *Server) planRoom(p *roomPlan) error {
	req := &p.req
	if !slices.Contains([]string{"", "public", "private"}, req.Visibility) {
		return merr.BadJSON("visibility must be \"public\" or \"private\"")
	}
	if req.Preset == "" {
		req.Preset = "private_chat"
		if req.Visibility == "public" {
			req.Preset = "public_chat"
		}
	}
	preset, err := presetState(req.Preset)
	if err != nil {
		return err
	}
	if len(req.InitialState)+len(req.Invite) > maxInitialEvents {
		return merr.TooLarge("more than %d events and invites", maxInitialEvents)
	}
	if !p.rules.RoomIDIsCreateHash {
		p.room = newRoomID(s.cfg.ServerName)
	}
	steps := []func() error{
		p.addCreate, p.addCreator, p.addPowerLevels,
		func() error { return p.addAlias(s.cfg.ServerName) },
		func() error { p.addPreset(preset); return nil },
		p.addInitialState, p.addNameAndTopic,
		func() error { return p.addInvites(s) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// newRoomID makes the ID of a room of version 11 or less.
//
// spec: appendices §4.3.2 (Room IDs)
func newRoomID(server id.Server) id.Room {
	return id.Room("!" + rand.Text()[:18] + ":" + string(server))
}

func (p *roomPlan) state(typ, key string, content json.RawMessage) {
	p.specs = append(p.specs, eventSpec{Type: typ, StateKey: stateKey(key), Sender: p.req.Creator, Content: content})
}

// addCreate is step 1.
func (p *roomPlan) addCreate() error {
	content, err := parseObject("creation_content", p.req.CreationContent)
	if err != nil {
		return err
	}
	// spec: "The server will overwrite the following keys: creator, room_version."
	delete(content, "creator")
	content.set("room_version", p.rules.Version)
	if p.rules.CreatorInContent {
		content.set("creator", p.req.Creator)
	}
	if p.rules.CreatorsPrivileged {
		if err := p.addCreators(content); err != nil {
			return err
		}
	}
	p.state(eventauth.TypeCreate, "", content.raw())
	return nil
}

// addCreators checks additional_creators, and adds those invited to a trusted private
// chat.
//
// spec: client-server §10.1 ("the server SHOULD combine additional_creators specified here
// and the invite array")
func (p *roomPlan) addCreators(content object) error {
	var list []id.User
	if raw, ok := content["additional_creators"]; ok {
		if err := json.Unmarshal(raw, &list); err != nil || list == nil {
			return merr.BadJSON("additional_creators must be a list of user IDs")
		}
	}
	if p.req.Preset == "trusted_private_chat" {
		list = append(list, p.req.Invite...)
	}
	creators, err := uniqueUsers(list, p.req.Creator)
	if err != nil {
		return err
	}
	p.creators = append([]id.User{p.req.Creator}, creators...)
	delete(content, "additional_creators")
	if len(creators) > 0 {
		content.set("additional_creators", creators)
	}
	return nil
}

// uniqueUsers checks a list of users and drops those named twice, and one more.
func uniqueUsers(list []id.User, except id.User) ([]id.User, error) {
	var out []id.User
	for _, u := range list {
		if _, err := id.ParseUser(string(u)); err != nil {
			return nil, merr.BadJSON("%q is no user ID", u)
		}
		if u != except && !slices.Contains(out, u) {
			out = append(out, u)
		}
	}
	return out, nil
}

// addCreator is step 2.
func (p *roomPlan) addCreator() error {
	content, err := parseObject("the creator's profile", p.req.CreatorProfile)
	if err != nil {
		return err
	}
	content.set("membership", "join")
	p.state(eventauth.TypeMember, string(p.req.Creator), content.raw())
	return nil
}

// addPowerLevels is step 3.
func (p *roomPlan) addPowerLevels() error {
	content, err := parseObject("power_level_content_override", p.req.PowerLevelContent)
	if err != nil {
		return err
	}
	for key, value := range p.defaultLevels() {
		if _, ok := content[key]; !ok {
			content.set(key, value)
		}
	}
	if p.rules.CreatorsPrivileged {
		if err := raiseTombstone(content); err != nil {
			return err
		}
	}
	p.state(eventauth.TypePowerLevels, "", content.raw())
	return nil
}

// defaultLevels are the power levels of a new room. What the request overrides
// replaces whole members of it.
func (p *roomPlan) defaultLevels() map[string]any {
	invite, tombstone := 0, 100
	if p.req.Preset == "public_chat" {
		invite = 50
	}
	if p.rules.CreatorsPrivileged {
		tombstone = tombstoneLevel
	}
	users := make(map[id.User]int)
	if !p.rules.CreatorsPrivileged {
		users[p.req.Creator] = 100
		if p.req.Preset == "trusted_private_chat" {
			// spec: "All invitees are given the same power level as the room creator."
			for _, u := range p.req.Invite {
				users[u] = 100
			}
		}
	}
	return map[string]any{
		"users": users, "users_default": 0, "events_default": 0, "state_default": 50,
		"ban": 50, "kick": 50, "redact": 50, "invite": invite,
		"events": map[string]int{
			"m.room.name": 50, "m.room.avatar": 50, "m.room.canonical_alias": 50,
			"m.room.power_levels": 100, "m.room.history_visibility": 100, "m.room.server_acl": 100,
			"m.room.encryption": 100, "m.room.tombstone": tombstone,
		},
		"notifications": map[string]int{"room": 50},
	}
}

const (
	defaultStateLevel = 50  // of state_default, where it is absent
	tombstoneLevel    = 150 // of a new room's tombstone
)

// raiseTombstone makes sure that a tombstone needs more than state_default.
//
// spec: client-server §10.1 ("If the room's version is 12 or higher, the power level
// for sending m.room.tombstone events MUST explicitly be higher than state_default.")
func raiseTombstone(levels object) error {
	events, err := parseObject("events of the power levels", levels["events"])
	if err != nil {
		return err
	}
	stateDefault, ok := levels.level("state_default")
	if !ok {
		stateDefault = defaultStateLevel
	}
	if level, ok := events.level("m.room.tombstone"); ok && level > stateDefault {
		return nil
	}
	events.set("m.room.tombstone", max(tombstoneLevel, stateDefault+1))
	levels["events"] = events.raw()
	return nil
}

// level reads a power level.
func (o object) level(key string) (int64, bool) {
	raw, ok := o[key]
	if !ok {
		return 0, false
	}
	var n int64
	err := json.Unmarshal(raw, &n)
	return n, err == nil
}

// addAlias is step 4.
func (p *roomPlan) addAlias(server id.Server) error {
	if p.req.AliasLocalpart == "" {
		return nil
	}
	var err error
	p.alias, err = id.ParseRoomAlias("#" + p.req.AliasLocalpart + ":" + string(server))
	if err != nil || p.alias.Localpart() != p.req.AliasLocalpart {
		return merr.InvalidParam("%q cannot be the localpart of an alias", p.req.AliasLocalpart)
	}
	p.state("m.room.canonical_alias", "", contentOf(map[string]any{"alias": p.alias}))
	return nil
}

// presetState gives the state events that a preset sets.
func presetState(preset string) ([]api.StateEvent, error) {
	joinRule, guests := "invite", "can_join"
	switch preset {
	case "private_chat", "trusted_private_chat":
	case "public_chat":
		joinRule, guests = "public", "forbidden"
	default:
		return nil, merr.BadJSON("the preset %q is not known", preset)
	}
	return []api.StateEvent{
		{Type: eventauth.TypeJoinRules, Content: contentOf(map[string]any{"join_rule": joinRule})},
		{Type: "m.room.history_visibility", Content: contentOf(map[string]any{"history_visibility": "shared"})},
		{Type: "m.room.guest_access", Content: contentOf(map[string]any{"guest_access": guests})},
	}, nil
}

// addPreset is step 5.
func (p *roomPlan) addPreset(list []api.StateEvent) {
	for _, e := range list {
		overridden := slices.ContainsFunc(p.req.InitialState, func(i api.StateEvent) bool { return i.Type == e.Type && i.StateKey == "" })
		if !overridden {
			p.state(e.Type, "", e.Content)
		}
	}
}

// addInitialState is step 6. Events that name and topic override are left out.
func (p *roomPlan) addInitialState() error {
	for _, e := range p.req.InitialState {
		switch {
		case e.Type == "":
			return merr.BadJSON("an event of initial_state has no type")
		case e.Type == eventauth.TypeCreate:
			return merr.InvalidRoomState("initial_state cannot hold a create event; there is creation_content")
		case e.Type == eventauth.TypeMember:
			return merr.InvalidRoomState("initial_state cannot hold members; there is invite")
		case e.StateKey == "" && (e.Type == "m.room.name" && p.req.Name != "" || e.Type == "m.room.topic" && p.req.Topic != ""):
			continue
		}
		content, err := parseObject("the content of "+e.Type, e.Content)
		if err != nil {
			return err
		}
		if len(e.Content) == 0 {
			return merr.BadJSON("the event %s of initial_state has no content", e.Type)
		}
		p.state(e.Type, e.StateKey, content.raw())
	}
	return nil
}

// addNameAndTopic is step 7.
func (p *roomPlan) addNameAndTopic() error {
	if p.req.Name != "" {
		p.state("m.room.name", "", contentOf(map[string]any{"name": p.req.Name}))
	}
	if p.req.Topic != "" {
		// spec: "an m.room.topic event with a text/plain mimetype"
		p.state("m.room.topic", "", contentOf(map[string]any{
			"topic":   p.req.Topic,
			"m.topic": map[string]any{"m.text": []map[string]string{{"body": p.req.Topic, "mimetype": "text/plain"}}},
		}))
	}
	return nil
}

// addInvites is step 8, and collects the invites that other servers must sign.
func (p *roomPlan) addInvites(s *Server) error {
	invited, err := uniqueUsers(p.req.Invite, "")
	if err != nil {
		return err
	}
	for _, u := range invited {
		if u == p.req.Creator {
			return merr.Forbidden("%s cannot be invited to the room they create", u)
		}
		content, err := parseObject("the profile of "+string(u), p.req.InviteProfiles[u])
		if err != nil {
			return err
		}
		content.set("membership", "invite")
		if p.req.IsDirect {
			content.set("is_direct", true)
		}
		if s.local(u) {
			p.state(eventauth.TypeMember, string(u), content.raw())
		} else {
			p.remote = append(p.remote, remoteInvite{u, content.raw()})
		}
	}
	return nil
}

// inviteAll invites users of other servers to a room that has just been made.
func (s *Server) inviteAll(ctx context.Context, room id.Room, p *roomPlan) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, inviteConcurrency)
	for _, i := range p.remote {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if _, err := s.inviteRemote(ctx, room, p.req.Creator, i.target, i.content); err != nil {
				s.log.WithError(err).WithField("room", room).WithField("user", i.target).Warn("inviting to a new room failed")
			}
		})
	}
	wg.Wait()
}
