package roomserver

import (
	"context"
	"encoding/json"

	"weft/internal/fedclient"
	"weft/matrix/event"
	"weft/matrix/id"
)

// Remote is what the room server asks of other servers. *fedclient.Client
// implements it; nothing that it returns has been checked.
type Remote interface {
	GetEvent(ctx context.Context, server id.Server, ev id.Event) (json.RawMessage, error)
	GetEventAuth(ctx context.Context, server id.Server, room id.Room, ev id.Event, visit fedclient.Visit) error
	GetState(ctx context.Context, server id.Server, room id.Room, at id.Event, visit fedclient.Visit) error
	GetStateIDs(ctx context.Context, server id.Server, room id.Room, at id.Event) (*fedclient.StateIDs, error)
	GetMissingEvents(ctx context.Context, server id.Server, room id.Room, m fedclient.MissingEvents) ([]json.RawMessage, error)
	Backfill(ctx context.Context, server id.Server, room id.Room, from []id.Event, limit int) ([]json.RawMessage, error)
	PolicySign(ctx context.Context, server id.Server, pdu json.RawMessage) (map[id.Server]map[id.KeyID]string, error)

	MakeJoin(ctx context.Context, server id.Server, room id.Room, user id.User, versions []event.RoomVersion) (*fedclient.Template, error)
	MakeKnock(ctx context.Context, server id.Server, room id.Room, user id.User, versions []event.RoomVersion) (*fedclient.Template, error)
	MakeLeave(ctx context.Context, server id.Server, room id.Room, user id.User) (*fedclient.Template, error)
	SendJoin(ctx context.Context, server id.Server, room id.Room, ev id.Event, join json.RawMessage, omitMembers bool, visit fedclient.Visit) (*fedclient.JoinResult, error)
	SendKnock(ctx context.Context, server id.Server, room id.Room, ev id.Event, knock json.RawMessage) ([]json.RawMessage, error)
	SendLeave(ctx context.Context, server id.Server, room id.Room, ev id.Event, leave json.RawMessage) error
	Invite(ctx context.Context, server id.Server, room id.Room, ev id.Event, version event.RoomVersion, invite json.RawMessage, stripped []json.RawMessage) (json.RawMessage, error)
	QueryDirectory(ctx context.Context, alias id.RoomAlias) (*fedclient.RoomDirectory, error)
}

var _ Remote = (*fedclient.Client)(nil)
