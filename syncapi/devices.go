package syncapi

import (
	"context"
	"encoding/json"
	"slices"

	"weft/internal/eventstore"
	"weft/internal/httpapi"
	"weft/internal/nid"
	"weft/internal/statetree"
	keyapi "weft/keyserver/api"
	"weft/matrix/eventauth"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	// maxToDevice is how many to-device messages an answer holds.
	maxToDevice = 100
	// maxNewMembers is up to how many members of an unencrypted room the user's arrival puts
	// them on the list of changed devices.
	maxNewMembers = 500
)

// deviceSections is what /sync tells about devices.
type deviceSections struct {
	messages      []json.RawMessage
	changed, left []id.User
	counts        keyapi.KeyCounts
	hasDevice     bool
}

// acknowledge deletes the messages that the client got with its token. What it may
// have seen twice is better than what it never saw.
func (s *Server) acknowledge(ctx context.Context, q *syncRequest) error {
	if q.initial || q.since.ToDevice == 0 || q.device == "" {
		return nil
	}
	old, _, err := s.cfg.ToDevice.ListMessages(ctx, q.user, q.device, 0, q.since.ToDevice, 1)
	if err != nil || len(old) == 0 {
		return err
	}
	return s.cfg.ToDevice.DeleteMessages(ctx, q.user, q.device, q.since.ToDevice)
}

// deviceSections reads messages, changed device lists and key counts. It sets the
// plan's to-device position to what the answer reaches.
func (s *Server) deviceSections(ctx context.Context, q *syncRequest, p *plan) (*deviceSections, error) {
	d := &deviceSections{hasDevice: q.device != ""}
	var err error
	if d.hasDevice {
		if from := q.since.ToDevice; from < p.to.ToDevice {
			var last int64
			if d.messages, last, err = s.cfg.ToDevice.ListMessages(ctx, q.user, q.device, from, p.to.ToDevice, maxToDevice); err != nil {
				return nil, err
			}
			p.to.ToDevice = last
		}
		if d.counts, err = s.cfg.Keys.KeyCounts(ctx, q.user, q.device); err != nil {
			return nil, err
		}
	}
	if !q.initial {
		d.changed, d.left, err = s.deviceLists(ctx, q, p)
	}
	return d, err
}

// write writes the sections; it reports false when none holds news.
func (d *deviceSections) write(b *object) bool {
	some := false
	if len(d.messages) > 0 {
		events(b, "to_device", d.messages)
		some = true
	}
	if len(d.changed)+len(d.left) > 0 {
		in := b.key("device_lists").open()
		texts(in, "changed", d.changed)
		texts(in, "left", d.left)
		in.close()
		some = true
	}
	if !d.hasDevice {
		return some
	}
	// spec: client-server §11.12.2 (Extensions to /sync): a count that is missing is taken for 0,
	// so these are in each answer.
	in := b.key("device_one_time_keys_count").open()
	if _, ok := d.counts.OneTime["signed_curve25519"]; !ok {
		in.key("signed_curve25519").int(0)
	}
	for _, alg := range sortedKeys(d.counts.OneTime) {
		in.key(alg).int(int64(d.counts.OneTime[alg]))
	}
	in.close()
	texts(b, "device_unused_fallback_key_types", d.counts.UnusedFallback)
	return some
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// listChange collects whose devices a user has to look at again.
type listChange struct {
	s       *Server
	user    id.User
	changed map[id.User]bool
	// maybeLeft are to be reported when they share no room any more, maybeChanged when they do.
	maybeLeft, maybeChanged map[id.User]bool
}

// deviceLists finds whose device lists changed, who shares a room with the user since the
// last sync, and who does not any more.
//
// spec: client-server §11.12.2 (device_lists)
func (s *Server) deviceLists(ctx context.Context, q *syncRequest, p *plan) (changed, left []id.User, err error) {
	c := s.newListChange(q.user)
	if err := c.devices(ctx, q.since.DeviceLists, p.to.DeviceLists); err != nil {
		return nil, nil, err
	}
	for _, r := range p.joined {
		if r.newly {
			if err := c.arrived(ctx, r.Room); err != nil {
				return nil, nil, err
			}
			continue
		}
		c.moved(r.moved)
	}
	for _, r := range p.left {
		if r.wasIn {
			if err := c.departed(ctx, r.nid); err != nil {
				return nil, nil, err
			}
		}
	}
	return c.result(ctx)
}

func (s *Server) newListChange(user id.User) *listChange {
	return &listChange{s: s, user: user, changed: make(map[id.User]bool), maybeLeft: make(map[id.User]bool), maybeChanged: make(map[id.User]bool)}
}

// devices takes the users whose device lists changed.
func (c *listChange) devices(ctx context.Context, from, to int64) error {
	if from >= to {
		return nil
	}
	list, err := c.s.cfg.Keys.ListChanged(ctx, from, to)
	for _, u := range list {
		if u == c.user {
			c.changed[u] = true
		} else {
			c.maybeChanged[u] = true
		}
	}
	return err
}

// moved takes the members of a room, in which the user is and was, whose membership changed.
func (c *listChange) moved(members []eventstore.Member) {
	for _, m := range members {
		switch {
		case m.User == c.user:
		case m.Membership == eventstore.Join:
			c.changed[m.User] = true
		case m.Membership == eventstore.Leave, m.Membership == eventstore.Ban:
			c.maybeLeft[m.User] = true
		}
	}
}

// arrived takes the members of a room that the user joined.
//
// spec?: the list is to hold those "who now share an encrypted room"; small rooms without
// encryption are taken too, because it may be turned on any time. The user is among them: to
// a user's other devices this one is a device to look at, as those of the other members are.
func (c *listChange) arrived(ctx context.Context, room *eventstore.Room) error {
	if room.Joined > maxNewMembers {
		found, err := c.s.events.CurrentState(room).GetMany(ctx, []eventauth.Key{{Type: "m.room.encryption"}})
		if err != nil || len(found) == 0 {
			return err
		}
	}
	return c.s.events.EachMember(ctx, room.NID, func(m eventstore.Member) error {
		c.changed[m.User] = true
		return nil
	}, eventstore.Join)
}

// departed takes the members of a room that the user left.
func (c *listChange) departed(ctx context.Context, room nid.Room) error {
	return c.s.events.EachMember(ctx, room, func(m eventstore.Member) error {
		if m.User != c.user {
			c.maybeLeft[m.User] = true
		}
		return nil
	}, eventstore.Join)
}

// result looks up who shares a room with the user now.
func (c *listChange) result(ctx context.Context) (changed, left []id.User, err error) {
	ask := make(map[id.User]bool)
	for _, set := range []map[id.User]bool{c.maybeLeft, c.maybeChanged} {
		for u := range set {
			ask[u] = true
		}
	}
	sharing, err := c.s.sharing(ctx, c.user, ask)
	if err != nil {
		return nil, nil, err
	}
	for u := range c.maybeChanged {
		if sharing[u] {
			c.changed[u] = true
		}
	}
	for u := range c.maybeLeft {
		if !sharing[u] {
			left = append(left, u)
			delete(c.changed, u)
		}
	}
	for u := range c.changed {
		changed = append(changed, u)
	}
	slices.Sort(changed)
	slices.Sort(left)
	return changed, left, nil
}

// sharing tells which of some users share a room with a user.
func (s *Server) sharing(ctx context.Context, user id.User, ask map[id.User]bool) (map[id.User]bool, error) {
	const few = 20
	out := make(map[id.User]bool)
	if len(ask) > few {
		return out, s.events.UsersSharingRoomsWith(ctx, user, func(u id.User) error {
			if ask[u] {
				if out[u] = true; len(out) == len(ask) {
					return statetree.Stop
				}
			}
			return nil
		})
	}
	for u := range ask {
		rooms, err := s.events.SharedRooms(ctx, user, u)
		if err != nil {
			return nil, err
		}
		if len(rooms) > 0 {
			out[u] = true
		}
	}
	return out, nil
}

// GetKeysChanges is GET /keys/changes.
func (s *Server) GetKeysChanges(ctx context.Context, r *httpapi.Request) (any, error) {
	from, to := r.Query().Get("from"), r.Query().Get("to")
	if from == "" {
		return nil, merr.MissingParam("the parameter from is missing")
	}
	q := &syncRequest{user: r.Session.User, device: r.Session.Device, filter: noFilter}
	var err error
	if q.since, err = parseVector(from); err != nil {
		return nil, err
	}
	if to != "" {
		if _, err := parseVector(to); err != nil {
			return nil, err
		}
	}
	// spec?: what happened after to is told as well: to look at a device list once
	// more is harmless, and the present is all that is stored about members.
	p, err := s.makePlan(ctx, q)
	if err != nil {
		return nil, err
	}
	changed, left, err := s.deviceLists(ctx, q, p)
	if err != nil {
		return nil, err
	}
	return map[string]any{"changed": nonNil(changed), "left": nonNil(left)}, nil
}

func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
