package eventstore

import (
	"fmt"
	"math"

	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/id"
)

// Flags say how an event stands to its room.
type Flags int64

// The flags of an event.
const (
	// Outlier: the event's place in the room and the state before it are not known.
	Outlier Flags = 1 << iota
	// Rejected: the event failed the authorization rules; it has no effect.
	Rejected
	// SoftFailed: the event failed the rules against the current state; clients
	// do not get it, but it takes part in the graph.
	SoftFailed
	// SendOut: this server has to send the event to the others in the room.
	SendOut
	// Unreferenced: a sweep found nothing that refers to the outlier, and the next one will
	// remove it. Who is about to refer to it takes the flag away (write.Spare).
	Unreferenced
)

// Event is a stored event. It is immutable and shared between callers; the columns
// that can change show the moment of reading.
type Event struct {
	// Event is in its redacted form when RedactedBy is not 0.
	*event.Event
	NID         nid.Event
	RoomNID     nid.Room
	TypeNID     nid.Type
	StateKeyNID nid.StateKey // 0: no state event
	// StreamPos is 0 for outliers and negative for backfilled events.
	StreamPos int64
	Flags     Flags
	// StateBefore is the state before the event. It means something only when
	// HasState.
	StateBefore statetree.Root
	HasState    bool
	// RedactedBy is the redaction event that hides this one's content, or 0.
	RedactedBy nid.Event
	// AuthNIDs are the auth events, in ascending order. The slice is shared.
	AuthNIDs []nid.Event
}

// Position gives the event's place in the topological order of its room.
func (e *Event) Position() Position { return Position{Depth: e.Depth, Stream: e.StreamPos} }

// Key gives a state event's place in the state.
func (e *Event) Key() statetree.Key {
	return statetree.Key{Type: e.TypeNID, StateKey: e.StateKeyNID}
}

// Visible reports whether clients may get the event at all: it is part of the
// room, and neither rejected nor soft failed.
func (e *Event) Visible() bool { return e.Flags&(Outlier|Rejected|SoftFailed) == 0 }

// Position is a place in the topological order of a room: by depth, and among
// events of one depth by stream position. As a bound it names the gap just after the
// event that has it.
type Position struct{ Depth, Stream int64 }

// Before gives the gap just before the event at p.
func (p Position) Before() Position {
	if p.Stream == math.MinInt64 {
		return Position{p.Depth - 1, math.MaxInt64}
	}
	return Position{p.Depth, p.Stream - 1}
}

// Less orders positions.
func (p Position) Less(o Position) bool {
	return p.Depth < o.Depth || p.Depth == o.Depth && p.Stream < o.Stream
}

// Start gives the position before all events of a room.
func Start() Position { return Position{math.MinInt64, math.MinInt64} }

// End gives the position after all events of a room.
func End() Position { return Position{math.MaxInt64, math.MaxInt64} }

// Room is a room's row, as it was when it was read.
type Room struct {
	NID     nid.Room
	ID      id.Room
	Version event.RoomVersion
	Rules   *event.Rules
	// Revision is the fence: it grows with every write to the room.
	Revision     int64
	CurrentState statetree.Root
	// Extremities are the forward extremities, in ascending order.
	Extremities []nid.Event
	// Depth is the greatest depth among the room's accepted events.
	Depth int64
	// Stub: this server is not in the room and knows it from an invite, a knock
	// or a single event; there is no state.
	Stub bool
	// Joined and Invited count the members of the current state.
	Joined, Invited int64
	// Unordered is the highest number of an auth event whose event has a lower one, since it was stored
	// before. Above it, events have higher numbers than all of their auth chains.
	Unordered nid.Event
}

// Membership is a user's relation to a room.
type Membership int64

// The memberships. None is that of a user who was never mentioned.
const (
	None Membership = iota
	Join
	Invite
	Leave
	Ban
	Knock
)

// String gives the membership as content.membership has it; "" for None.
func (m Membership) String() string {
	switch m {
	case Join:
		return "join"
	case Invite:
		return "invite"
	case Leave:
		return "leave"
	case Ban:
		return "ban"
	case Knock:
		return "knock"
	}
	return ""
}

// ParseMembership reads content.membership. What is none of the known words is None.
func ParseMembership(s string) Membership {
	switch s {
	case "join":
		return Join
	case "invite":
		return Invite
	case "leave":
		return Leave
	case "ban":
		return Ban
	case "knock":
		return Knock
	}
	return None
}

// Member is a user's membership in the current state of a room.
type Member struct {
	User       id.User
	UserNID    nid.StateKey
	Membership Membership
	// Event is the member event; 0 for a user without one.
	Event nid.Event
	// StreamPos is the position at which the membership became current.
	StreamPos int64
	Local     bool
	// Forgotten: the user left and asked not to see the room any more.
	Forgotten bool
}

// MemberRoom is a room in which a user has a membership.
type MemberRoom struct {
	Room       nid.Room
	RoomID     id.Room
	Stub       bool
	Membership Membership
	Event      nid.Event
	StreamPos  int64
	Forgotten  bool
}

// MembershipChange is one step of a local user's history in a room.
type MembershipChange struct {
	Pos              int64
	Room             nid.Room
	RoomID           id.Room
	Event            nid.Event
	Membership, Prev Membership
}

// StreamRow is one event of the stream of all rooms.
type StreamRow struct {
	Pos   int64
	Event nid.Event
	Room  nid.Room
	Type  nid.Type
	Flags Flags
}

// BackwardExtremity is an event that is not here, named as a parent by one that is.
type BackwardExtremity struct {
	Missing id.Event
	// Event names Missing among its previous events; Depth is Event's.
	Event nid.Event
	Depth int64
}

// Judged is an event as state resolution looks at it: before any redaction, and whether it was rejected.
type Judged struct {
	*event.Event
	NID      nid.Event
	Rejected bool
}

// AuthEdge is an event's place in the auth graph.
type AuthEdge struct {
	Depth    int64
	Auth     []nid.Event // ascending, shared
	Rejected bool
}

// Staged are events of one room that another server sent together and that wait to be processed.
type Staged struct {
	Seq      int64
	Room     nid.Room
	Origin   id.Server
	Received int64 // milliseconds
	Events   []StagedEvent
}

// StagedEvent is one of them.
type StagedEvent struct {
	ID   id.Event
	JSON []byte
}

// missing reports a number that leads nowhere: the store is inconsistent, or a
// number was made up.
func missing(kind string, n any) error {
	return fmt.Errorf("eventstore: no %s has the number %v", kind, n)
}
