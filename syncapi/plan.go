package syncapi

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	clientapi "weft/clientapi/api"
	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/id"
)

// plan is what a sync is going to tell, and up to where.
type plan struct {
	to   vector
	jobs []job

	// me is the user's number, 0 for one who was never in a room.
	me nid.StateKey
	// joined are the rooms of the jobs in which the user is, left those the user left
	// since the last sync.
	joined []*joinedRoom
	left   []*leftRoom
	// invited are invites and knocks.
	invited []eventstore.MemberRoom
	// data is the account data that changed, by room ("": global).
	data    map[id.Room][]clientapi.AccountData
	ignored map[id.User]bool
	unread  map[nid.Room]unreadCounts
}

// joinedRoom is a room in which the user is.
type joinedRoom struct {
	*eventstore.Room
	// newly: the user was not in it all the time since the last sync.
	newly bool
	// changed: it has events that the last sync did not know.
	changed bool
	// moved are the members whose membership, or profile, is new.
	moved []eventstore.Member
	// late: its notification counts are new.
	late bool
	// piece is what happened since the last sync, where it is at hand.
	piece *piece
}

// leftRoom is a room which the user left, was removed or banned from.
type leftRoom struct {
	id    id.Room
	nid   nid.Room
	stub  bool
	event nid.Event
	// fresh: the client was told nothing of the history that there is to show: the user
	// came and went since the last sync, or this is the first one.
	fresh bool
	// wasIn: the user was joined before, so that there is state to show.
	wasIn bool
}

// makePlan takes the newest positions and chooses the rooms.
func (s *Server) makePlan(ctx context.Context, q *syncRequest) (*plan, error) {
	p := &plan{}
	c := &chooser{s: s, q: q, p: p}
	live, err := c.live(ctx)
	if err == nil && !live {
		err = c.snapshot(ctx)
	}
	if err != nil {
		return nil, err
	}
	p.to.Notified = c.follow(ctx)
	if err := s.read.reach(ctx, p.to.Receipts); err != nil {
		return nil, err
	}
	if err := c.notified(ctx); err != nil {
		return nil, err
	}
	if err := c.accountData(ctx); err != nil {
		return nil, err
	}
	if err := c.complete(ctx); err != nil {
		return nil, err
	}
	if err := c.noteTold(ctx); err != nil {
		return nil, err
	}
	c.addJobs()
	return p, nil
}

// follow has what is derived from the events of the user's rooms stored, and gives up to where it is.
func (c *chooser) follow(ctx context.Context) int64 {
	if c.rooms == nil {
		return c.p.to.Events // there is no room to tell of
	}
	if c.q.whole() {
		return c.s.follower.catchUp(ctx, c.p.to, 0, nil)
	}
	return c.s.follower.catchUp(ctx, c.p.to, c.q.since.Notified, func(n nid.Room) bool {
		return c.rooms.has(n) || slices.ContainsFunc(c.p.left, func(l *leftRoom) bool { return l.nid == n })
	})
}

// snapshot chooses the rooms from one moment of the database.
func (c *chooser) snapshot(ctx context.Context) error {
	return c.s.db.View(ctx, func(tx *sqldb.Tx) error {
		to, err := position(ctx, tx)
		if err != nil {
			return err
		}
		if done, err := c.begin(to); done || err != nil {
			return err
		}
		return c.choose(ctx, tx, c.s.events.Snapshot(tx))
	})
}

// begin sets what the plan reaches up to. It reports true when there is nothing new.
func (c *chooser) begin(to vector) (done bool, err error) {
	p, q := c.p, c.q
	p.to = to
	p.to.Typing, p.to.Presence, p.to.Node = c.s.typing.position(), c.s.presence.position(), c.s.node
	p.to.Told = q.since.Told // until it is known better
	if q.initial {
		return false, nil
	}
	if err := q.since.within(p.to); err != nil {
		return false, err
	}
	p.to.Notified = q.since.Notified // until it is known better
	return q.since == p.to && !q.fullState && q.since.Notified >= q.since.Events, nil
}

// chooser chooses the rooms of a plan.
type chooser struct {
	s *Server
	q *syncRequest
	p *plan
	// rooms are all rooms in which the user is joined.
	rooms *roomSet
	// concerned are the joined rooms with something new in them; the value: events.
	concerned map[nid.Room]bool
	newly     map[nid.Room]bool
	rows      map[nid.Room]*eventstore.Room
	pieces    map[nid.Room]*piece
	// late are rooms whose counts must be told.
	late map[nid.Room]bool
	// again are rooms of which typing alone is told, which the client may know.
	again map[nid.Room]bool
}

// reset forgets what was chosen.
func (c *chooser) reset() {
	c.rooms, c.late, c.again = &roomSet{}, nil, nil
	c.concerned, c.newly = make(map[nid.Room]bool), make(map[nid.Room]bool)
	c.rows, c.pieces = make(map[nid.Room]*eventstore.Room), make(map[nid.Room]*piece)
}

// roomsMayHaveNews tells whether anything happened in any room.
func (c *chooser) roomsMayHaveNews() bool {
	since, to := &c.q.since, &c.p.to
	return to.Events != since.Events || to.Receipts != since.Receipts || to.AccountData != since.AccountData ||
		to.Typing != since.Typing || since.Notified < since.Events
}

// choose finds the rooms, in the snapshot that the positions were read in.
func (c *chooser) choose(ctx context.Context, tx *sqldb.Tx, r *eventstore.Reader) error {
	c.reset()
	var err error
	if c.p.me, err = r.UserNID(ctx, c.q.user); err != nil || c.p.me == 0 {
		return err
	}
	switch {
	case c.q.whole():
		err = c.everything(ctx, r)
	case !c.roomsMayHaveNews():
		return nil
	default:
		c.rooms.rooms, err = r.JoinedRooms(ctx, c.p.me)
	}
	if err != nil {
		return err
	}
	if !c.q.initial {
		if err := c.changes(ctx, tx, r); err != nil {
			return err
		}
	}
	numbers := make([]nid.Room, 0, len(c.concerned))
	for n := range c.concerned {
		numbers = append(numbers, n)
	}
	c.rows, err = r.Rooms(ctx, numbers)
	return err
}

// wanted applies the filter's lists of rooms.
func (c *chooser) wanted(room id.Room) bool { return c.q.filter.Room.allowsRoom(room) }

// wantedNID is wanted by a room's number.
func (c *chooser) wantedNID(ctx context.Context, n nid.Room) (bool, error) {
	if f := &c.q.filter.Room; f.Rooms == nil && f.NotRooms == nil {
		return true, nil
	}
	room, err := c.s.events.RoomID(ctx, n)
	return c.wanted(room), err
}

// everything takes all rooms: in the first sync, or with full_state.
func (c *chooser) everything(ctx context.Context, r *eventstore.Reader) error {
	list, err := r.RoomsOf(ctx, c.q.user)
	if err != nil {
		return err
	}
	var gone []eventstore.MemberRoom
	for _, m := range list {
		if !c.wanted(m.RoomID) {
			continue
		}
		switch m.Membership {
		case eventstore.Join:
			c.rooms.rooms = append(c.rooms.rooms, m.Room)
			c.concerned[m.Room] = true
		case eventstore.Invite, eventstore.Knock:
			c.p.invited = append(c.p.invited, m)
		case eventstore.Leave, eventstore.Ban:
			if !m.Forgotten {
				gone = append(gone, m)
			}
		}
	}
	if !c.q.filter.Room.IncludeLeave {
		if gone, err = c.removed(ctx, r, gone); err != nil {
			return err
		}
	}
	for _, m := range gone {
		c.p.left = append(c.p.left, &leftRoom{id: m.RoomID, nid: m.Room, stub: m.Stub, event: m.Event, fresh: true, wasIn: true})
	}
	return nil
}

// removed gives those rooms that the user did not leave, but was made to leave. A client that did not sync between would never learn why they
// are not there any more.
//
// spec?: client-server §6.4 has "rooms that the user has left or been banned from"; include_leave is about those "that the user has left".
func (c *chooser) removed(ctx context.Context, r *eventstore.Reader, gone []eventstore.MemberRoom) ([]eventstore.MemberRoom, error) {
	if !c.q.initial || len(gone) == 0 {
		return nil, nil
	}
	nids := make([]nid.Event, len(gone))
	for i, m := range gone {
		nids[i] = m.Event
	}
	events, err := r.Events(ctx, nids)
	if err != nil {
		return nil, err
	}
	var out []eventstore.MemberRoom
	for i, e := range events {
		if e.Sender != c.q.user {
			out = append(out, gone[i])
		}
	}
	return out, nil
}

// changes finds what is new since the last sync.
func (c *chooser) changes(ctx context.Context, tx *sqldb.Tx, r *eventstore.Reader) error {
	since, to := &c.q.since, &c.p.to
	if to.Events > since.Events {
		if err := c.memberships(ctx, r); err != nil {
			return err
		}
		changed, err := r.RoomsChanged(ctx, c.rooms.rooms, since.Events, to.Events)
		if err != nil {
			return err
		}
		for n := range changed {
			wanted, err := c.wantedNID(ctx, n)
			if err != nil {
				return err
			}
			if wanted {
				c.concerned[n] = true
			}
		}
	}
	return c.ephemeral(ctx, tx, r)
}

// ephemeral finds the rooms with new receipts and typing.
func (c *chooser) ephemeral(ctx context.Context, q sqldb.Querier, r *eventstore.Reader) error {
	since, to := &c.q.since, &c.p.to
	if to.Receipts > since.Receipts {
		list, err := receiptRooms(ctx, q, since.Receipts, to.Receipts)
		if err != nil {
			return err
		}
		for _, n := range list {
			if err := c.touch(ctx, n); err != nil {
				return err
			}
		}
	}
	if c.q.foreign != nil {
		if err := c.typingAgain(ctx, r); err != nil {
			return err
		}
		since = &vector{Typing: c.q.foreign.typing}
	}
	if to.Typing > since.Typing {
		for _, room := range c.s.typing.changed(since.Typing) {
			n, err := r.RoomNID(ctx, room)
			if err != nil {
				return err
			}
			if err := c.touch(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// typingAgain finds the rooms of which typing is told because nobody knows whether the client knows.
func (c *chooser) typingAgain(ctx context.Context, r *eventstore.Reader) error {
	var list []nid.Room
	if c.q.foreign.blank {
		list = c.rooms.rooms
	} else {
		for _, room := range c.s.typing.changed(0) {
			n, err := r.RoomNID(ctx, room)
			if err != nil {
				return err
			}
			list = append(list, n)
		}
	}
	if c.again == nil {
		c.again = make(map[nid.Room]bool)
	}
	for _, n := range list {
		if _, there := c.concerned[n]; there {
			continue
		}
		if err := c.touch(ctx, n); err != nil {
			return err
		}
		if _, there := c.concerned[n]; there {
			c.again[n] = true
		}
	}
	return nil
}

// noteTold notes whether the client will believe that somebody types, for the next process that it asks.
func (c *chooser) noteTold(ctx context.Context) error {
	if c.s.node == 0 || c.rooms == nil {
		return nil
	}
	c.p.to.Told = 0
	for _, room := range c.s.typing.active() {
		n, err := c.s.events.RoomNID(ctx, room)
		if err != nil {
			return err
		}
		if c.rooms.has(n) {
			c.p.to.Told = 1
			return nil
		}
	}
	return nil
}

// touch notes that a room has something new that is no event.
func (c *chooser) touch(ctx context.Context, n nid.Room) error {
	delete(c.again, n)
	if c.concerned[n] || !c.rooms.has(n) {
		return nil
	}
	wanted, err := c.wantedNID(ctx, n)
	if wanted {
		c.concerned[n] = false
	}
	return err
}

// memberships goes through the user's own changes since the last sync.
func (c *chooser) memberships(ctx context.Context, r *eventstore.Reader) error {
	list, err := r.MembershipChanges(ctx, c.q.user, c.q.since.Events, c.p.to.Events)
	if err != nil {
		return err
	}
	byRoom := make(map[nid.Room][]eventstore.MembershipChange)
	var order []nid.Room
	for _, m := range list {
		if byRoom[m.Room] == nil {
			order = append(order, m.Room)
		}
		byRoom[m.Room] = append(byRoom[m.Room], m)
	}
	for _, room := range order {
		if steps := byRoom[room]; c.wanted(steps[0].RoomID) {
			if err := c.steps(ctx, r, steps); err != nil {
				return err
			}
		}
	}
	return nil
}

// steps judges the steps of the user in one room.
func (c *chooser) steps(ctx context.Context, r *eventstore.Reader, steps []eventstore.MembershipChange) error {
	first, last := steps[0], steps[len(steps)-1]
	involved, joinedBetween := false, false
	for _, m := range steps {
		switch m.Prev {
		case eventstore.Join, eventstore.Invite, eventstore.Knock:
			involved = true
		}
		if m.Membership == eventstore.Join && m.Prev != eventstore.Join {
			joinedBetween = true
		}
	}
	if last.Membership == eventstore.Join {
		if joinedBetween {
			c.newly[last.Room] = true
			c.concerned[last.Room] = true
		}
		return nil
	}
	m, err := r.Member(ctx, last.Room, c.q.user)
	if err != nil || c.q.fullState && m.Membership != eventstore.Leave && m.Membership != eventstore.Ban {
		return err
	}
	switch m.Membership {
	case eventstore.Invite, eventstore.Knock:
		row, err := r.RoomByNID(ctx, last.Room)
		if err != nil {
			return err
		}
		c.p.invited = append(c.p.invited, eventstore.MemberRoom{Room: last.Room, RoomID: last.RoomID, Stub: row.Stub,
			Membership: m.Membership, Event: m.Event, StreamPos: m.StreamPos})
	case eventstore.Leave, eventstore.Ban:
		// spec?: a room that was forgotten since is shown all the same, or the user's other devices
		// would never learn that it was left.
		if !involved || c.q.fullState && c.q.filter.Room.IncludeLeave && !m.Forgotten {
			return nil // with full_state and include_leave it is in the list of everything
		}
		row, err := r.RoomByNID(ctx, last.Room)
		if err != nil {
			return err
		}
		c.p.left = append(c.p.left, &leftRoom{id: last.RoomID, nid: last.Room, stub: row.Stub, event: m.Event,
			fresh: first.Prev != eventstore.Join && joinedBetween, wasIn: first.Prev == eventstore.Join || joinedBetween})
	}
	return nil
}

// accountData reads the account data that changed; it adds rooms that have nothing
// else new.
func (c *chooser) accountData(ctx context.Context) error {
	p, q := c.p, c.q
	p.data = make(map[id.Room][]clientapi.AccountData)
	from := q.since.AccountData
	if len(c.newly) > 0 {
		from = 0 // what a client was not told while its user was not in the room
	}
	if from == p.to.AccountData && !q.initial {
		return nil
	}
	list, err := c.s.cfg.Accounts.ListAccountData(ctx, q.user, from, p.to.AccountData)
	if err != nil {
		return err
	}
	for _, d := range list {
		if q.initial && d.Content == nil {
			continue
		}
		if d.Pos > q.since.AccountData || q.initial {
			p.data[d.Room] = append(p.data[d.Room], d)
			continue
		}
		n, err := c.s.events.RoomNID(ctx, d.Room)
		if err != nil {
			return err
		}
		if d.Room != "" && c.newly[n] && d.Content != nil {
			p.data[d.Room] = append(p.data[d.Room], d)
		}
	}
	return c.dataRooms(ctx)
}

// dataRooms adds the joined rooms of which account data changed.
func (c *chooser) dataRooms(ctx context.Context) error {
	for room := range c.p.data {
		if room == "" {
			continue
		}
		n, err := c.s.events.RoomNID(ctx, room)
		if err != nil {
			return err
		}
		if err := c.touch(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// complete makes the rooms of the plan from their rows.
func (c *chooser) complete(ctx context.Context) error {
	var missing, changed []nid.Room
	for n, hasEvents := range c.concerned {
		if c.rows[n] == nil {
			missing = append(missing, n)
		}
		if hasEvents && c.pieces[n] == nil {
			changed = append(changed, n)
		}
	}
	more, err := c.s.events.Rooms(ctx, missing)
	if err != nil {
		return err
	}
	var moved map[nid.Room][]eventstore.Member
	if !c.q.initial {
		if moved, err = c.s.events.MovedMembers(ctx, changed, c.q.since.Events, c.p.to.Events); err != nil {
			return err
		}
	}
	for n, hasEvents := range c.concerned {
		row := c.rows[n]
		if row == nil {
			row = more[n]
		}
		if row == nil || row.Stub {
			continue
		}
		r := &joinedRoom{Room: row, newly: c.newly[n] || c.q.initial, changed: hasEvents, moved: moved[n], late: c.late[n], piece: c.pieces[n]}
		if r.piece != nil {
			r.moved = r.piece.moved
		}
		c.p.joined = append(c.p.joined, r)
	}
	slices.SortFunc(c.p.joined, func(a, b *joinedRoom) int { return cmp.Compare(a.NID, b.NID) })
	if len(c.p.joined)+len(c.p.invited)+len(c.p.left) == 0 {
		return nil
	}
	if c.p.ignored, err = c.s.ignoredUsersAt(ctx, c.q.user, c.p.to.AccountData); err != nil {
		return err
	}
	numbers := make([]nid.Room, len(c.p.joined))
	for i, r := range c.p.joined {
		numbers[i] = r.NID
	}
	c.p.unread, err = c.s.readUnread(ctx, c.p.me, numbers, c.p.to.Notified)
	return err
}

const notifiedSQL = `SELECT DISTINCT room_nid FROM unread WHERE user_nid = $1 AND pos > $2 AND notify > 0`

// notified adds rooms whose notifications were not known yet when their events were shown,
// because the follower was behind.
func (c *chooser) notified(ctx context.Context) error {
	since, to := c.q.since, c.p.to
	if c.q.initial || since.Notified >= since.Events || to.Notified <= since.Notified || c.rooms == nil || len(c.rooms.rooms) == 0 {
		return nil
	}
	rows, err := c.s.db.Query(ctx, notifiedSQL, int64(c.p.me), since.Notified)
	if err != nil {
		return fmt.Errorf("listing rooms with notifications: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var n nid.Room
		if err := rows.Scan(&n); err != nil {
			return fmt.Errorf("listing rooms with notifications: %w", err)
		}
		if err := c.touch(ctx, n); err != nil {
			return err
		}
		if c.late == nil {
			c.late = make(map[nid.Room]bool)
		}
		c.late[n] = true
	}
	return rows.Err()
}

// addJobs puts the rooms in the order of the answer.
func (c *chooser) addJobs() {
	p := c.p
	for _, r := range p.joined {
		p.jobs = append(p.jobs, job{"join", r.ID, r.newly || c.q.fullState, c.again[r.NID], r.write})
	}
	for section, membership := range map[string]eventstore.Membership{"invite": eventstore.Invite, "knock": eventstore.Knock} {
		for _, m := range p.invited {
			if m.Membership == membership {
				p.jobs = append(p.jobs, job{section, m.RoomID, false, false, func(ctx context.Context, a *answer) (bool, error) {
					return a.writeInvite(ctx, m)
				}})
			}
		}
	}
	for _, r := range p.left {
		p.jobs = append(p.jobs, job{"leave", r.id, false, false, r.write})
	}
}

// globalData gives the global account data that the filter lets pass.
func (p *plan) globalData(q *syncRequest) []json.RawMessage {
	return dataEvents(p.data[""], &q.filter.AccountData)
}

// dataEvents makes events of account data.
func dataEvents(list []clientapi.AccountData, f *eventFilter) []json.RawMessage {
	var out []json.RawMessage
	for _, d := range list {
		if !f.allowsType(d.Type) {
			continue
		}
		content := d.Content
		if content == nil {
			content = json.RawMessage(`{}`) // it was deleted
		}
		o := new(output)
		o.raw(`{"content":`)
		o.bytes(content)
		o.raw(`,"type":`)
		o.string(d.Type)
		o.raw(`}`)
		out = append(out, o.buf)
	}
	return out
}
