package api

import (
	"context"
	"encoding/json"

	"weft/internal/nid"
	"weft/matrix/event"
	"weft/matrix/id"
)

// Rooms is what local users do to rooms.
type Rooms interface {
	// CreateRoom makes a room with all its initial events, or nothing.
	CreateRoom(ctx context.Context, req CreateRoom) (id.Room, error)
	// SendEvent builds, signs, authorises and persists one event of a local
	// user. It returns when the event is durable. The same transaction ID
	// gives the same event ID, however often it is tried.
	SendEvent(ctx context.Context, req SendEvent) (id.Event, error)
	// SetMembership carries out joins, leaves, invites, kicks, bans, unbans and
	// knocks of local users, over federation where the room needs it.
	SetMembership(ctx context.Context, req SetMembership) (id.Room, error)
	// ForgetRoom hides a room that the user left.
	ForgetRoom(ctx context.Context, user id.User, room id.Room) error
	// UpgradeRoom creates the successor of a room and tombstones the old one.
	UpgradeRoom(ctx context.Context, req UpgradeRoom) (id.Room, error)
	// Backfill asks other servers for history before the room's backward
	// extremities nearest to depth Before. It reports whether it stored any
	// event.
	Backfill(ctx context.Context, req Backfill) (stored bool, err error)
	// FetchEvent gets a single event that is not in the store from the servers
	// of its room and stores it as an outlier.
	FetchEvent(ctx context.Context, room id.Room, event id.Event) (nid.Event, error)
}

// Directory keeps aliases and the list of published rooms.
type Directory interface {
	// ResolveAlias finds the room of a local or remote alias.
	ResolveAlias(ctx context.Context, alias id.RoomAlias) (ResolvedAlias, error)
	// CreateAlias points a local alias to a room. M_ROOM_IN_USE is 409 here.
	CreateAlias(ctx context.Context, alias id.RoomAlias, room id.Room, creator id.User) error
	// DeleteAlias removes a local alias; its creator may, and whoever may send
	// m.room.canonical_alias in the room.
	DeleteAlias(ctx context.Context, alias id.RoomAlias, by id.User) error
	// ListAliases lists the local aliases of a room.
	ListAliases(ctx context.Context, room id.Room) ([]id.RoomAlias, error)
	// SetPublished puts a room into the public room list or takes it out.
	SetPublished(ctx context.Context, room id.Room, published bool) error
	// IsPublished tells whether a room is in the public room list.
	IsPublished(ctx context.Context, room id.Room) (bool, error)
	// ListPublicRooms pages through this server's published rooms.
	ListPublicRooms(ctx context.Context, req ListPublicRooms) (PublicRooms, error)
}

// Federation is what other servers do to rooms.
type Federation interface {
	// ReceiveTransaction stages the PDUs of a transaction durably, then
	// processes them. The answer has an entry for each PDU: an empty string, or
	// why it was refused.
	ReceiveTransaction(ctx context.Context, req Transaction) (map[id.Event]string, error)
	// MakeMembership gives the template of a join, leave or knock event.
	MakeMembership(ctx context.Context, req MakeMembership) (MembershipTemplate, error)
	// SendMembership takes the signed event made from such a template.
	SendMembership(ctx context.Context, req SendMembership) (SentMembership, error)
	// ReceiveInvite takes an invite for a local user, signs and stores it.
	ReceiveInvite(ctx context.Context, req ReceiveInvite) (signed json.RawMessage, err error)
}

// CreateRoom is the request of POST /createRoom with its creator.
//
// spec: client-server §10.1 (Creation)
type CreateRoom struct {
	Creator           id.User
	RoomVersion       event.RoomVersion // empty: the default
	Visibility        string            // "public", "private" or empty
	AliasLocalpart    string            // room_alias_name
	Name, Topic       string
	Invite            []id.User
	CreationContent   json.RawMessage
	InitialState      []StateEvent
	Preset            string // "private_chat", "public_chat", "trusted_private_chat" or empty
	IsDirect          bool
	PowerLevelContent json.RawMessage // power_level_content_override
	// CreatorProfile holds displayname and avatar_url of the creator, and
	// InviteProfiles those of invited users, for their member events.
	CreatorProfile json.RawMessage
	InviteProfiles map[id.User]json.RawMessage
}

// StateEvent is one piece of initial state.
type StateEvent struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// SendEvent asks for one event by a local user.
type SendEvent struct {
	Room     id.Room
	Sender   id.User
	Type     string
	StateKey *string // nil: a message event
	Content  json.RawMessage
	Redacts  id.Event // m.room.redaction only
	// Timestamp overrides origin_server_ts (application services); 0: now.
	Timestamp int64
	// Txn makes the send idempotent; empty fields: it is not.
	Txn Txn
}

// Txn is a client's transaction ID in its scope: the device, and the path it
// was used on ("send/TYPE/ROOM", "redact/EVENT/ROOM").
//
// spec: client-server §5.9 (Transaction identifiers)
type Txn struct {
	Device id.Device
	Scope  string
	ID     string
}

// SetMembership asks for a change of Target's membership by Sender.
type SetMembership struct {
	// Room is a room ID; an alias is resolved by the caller.
	Room   id.Room
	Sender id.User
	Target id.User
	// Membership is "join", "leave", "invite", "ban" or "knock".
	Membership string
	// Action tells kick and unban (membership "leave" of another user) from
	// each other and from leave: "" , "kick", "unban".
	Action  string
	Reason  string
	Servers []id.Server // candidates for joining or knocking over federation
	// Content holds further content fields: displayname, avatar_url,
	// is_direct, third_party_signed, and custom ones.
	Content json.RawMessage
	Txn     Txn
}

// UpgradeRoom asks for a successor of Room.
type UpgradeRoom struct {
	Room       id.Room
	User       id.User
	NewVersion event.RoomVersion
	// AdditionalCreators of a version 12 room.
	AdditionalCreators []id.User
	Profile            json.RawMessage
}

// Backfill asks for history older than a place in the room.
type Backfill struct {
	Room   id.Room
	Before int64 // depth
	Limit  int   // events, at most 100
}

// ResolvedAlias is the room an alias points to.
type ResolvedAlias struct {
	Room    id.Room
	Servers []id.Server
}

// ListPublicRooms pages through published rooms.
type ListPublicRooms struct {
	Limit      int    // 0: a default
	Since      string // page token
	SearchTerm string
	// RoomTypes filters by m.room.create's type; a nil entry means rooms
	// without a type. An empty list does not filter.
	RoomTypes []*string
}

// PublicRoom is one entry of the public room list.
//
// spec: client-server §10.5 (PublicRoomsChunk)
type PublicRoom struct {
	RoomID           id.Room      `json:"room_id"`
	Name             string       `json:"name,omitempty"`
	Topic            string       `json:"topic,omitempty"`
	CanonicalAlias   id.RoomAlias `json:"canonical_alias,omitempty"`
	AvatarURL        string       `json:"avatar_url,omitempty"`
	NumJoinedMembers int64        `json:"num_joined_members"`
	WorldReadable    bool         `json:"world_readable"`
	GuestCanJoin     bool         `json:"guest_can_join"`
	JoinRule         string       `json:"join_rule,omitempty"`
	RoomType         string       `json:"room_type,omitempty"`
}

// PublicRooms is one page of the public room list.
type PublicRooms struct {
	Chunk     []PublicRoom `json:"chunk"`
	NextBatch string       `json:"next_batch,omitempty"`
	PrevBatch string       `json:"prev_batch,omitempty"`
	Total     int          `json:"total_room_count_estimate"`
}

// Transaction is an inbound /send: PDUs only; EDUs go to their owners.
type Transaction struct {
	Origin id.Server
	TxnID  string
	PDUs   []json.RawMessage // at most 50
}

// MakeMembership asks for a template.
type MakeMembership struct {
	Origin     id.Server
	Room       id.Room
	User       id.User
	Membership string // "join", "leave", "knock"
	// Versions are the room versions the asking server supports.
	Versions []event.RoomVersion
}

// MembershipTemplate answers MakeMembership.
type MembershipTemplate struct {
	Version event.RoomVersion
	Event   json.RawMessage
}

// SendMembership brings the signed event.
type SendMembership struct {
	Origin     id.Server
	Room       id.Room
	EventID    id.Event
	Membership string // "join", "leave", "knock"
	Event      json.RawMessage
}

// SentMembership answers SendMembership. The caller reads the events from the
// event store and streams them.
type SentMembership struct {
	// Event is the accepted event, with this server's signature added where a
	// restricted join asks for it.
	Event   json.RawMessage
	Version event.RoomVersion
	// State is the room state before the event, AuthChain its auth chain (joins).
	State, AuthChain []nid.Event
	// Stripped is the room's stripped state (knocks).
	Stripped []json.RawMessage
}

// ReceiveInvite brings an invite from another server.
type ReceiveInvite struct {
	Origin   id.Server
	Room     id.Room
	EventID  id.Event
	Version  event.RoomVersion
	Event    json.RawMessage
	Stripped []json.RawMessage
}
