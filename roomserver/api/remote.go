package api

import (
	"context"
	"encoding/json"

	"weft/internal/cluster"
	"weft/internal/nid"
	"weft/internal/rpc"
	"weft/matrix/id"
)

// The names of the services of the room server.
const (
	RoomsService      = "roomserver.Rooms"
	DirectoryService  = "roomserver.Directory"
	FederationService = "roomserver.Federation"
)

// Remote is the room server, in whichever process. What changes a room goes to the process that owns the room.
type Remote struct{ Caller rpc.Caller }

var (
	_ Rooms      = Remote{}
	_ Directory  = Remote{}
	_ Federation = Remote{}
)

func rooms(method string, room id.Room, again bool) rpc.Call {
	return rpc.Call{Service: RoomsService, Method: method, Key: RoomKey(room), Again: again}
}

// RoomKey gives the key by which a process owns a room, that of its share; none where there is no room yet.
func RoomKey(room id.Room) string {
	if room == "" {
		return ""
	}
	return cluster.ShareKey(cluster.RoomShare(string(room)))
}

func directory(method string) rpc.Call {
	return rpc.Call{Service: DirectoryService, Method: method, Again: true}
}

func federation(method string, room id.Room) rpc.Call {
	return rpc.Call{Service: FederationService, Method: method, Key: RoomKey(room), Again: true}
}

// CreateRoom implements Rooms.
func (r Remote) CreateRoom(ctx context.Context, req CreateRoom) (id.Room, error) {
	return rpc.Get[id.Room](ctx, r.Caller, rooms("CreateRoom", "", false), req)
}

// SendEvent implements Rooms.
func (r Remote) SendEvent(ctx context.Context, req SendEvent) (id.Event, error) {
	c := rooms("SendEvent", req.Room, req.Txn.ID != "")
	c.Often = true
	return rpc.Get[id.Event](ctx, r.Caller, c, req)
}

// SetMembership implements Rooms.
func (r Remote) SetMembership(ctx context.Context, req SetMembership) (id.Room, error) {
	return rpc.Get[id.Room](ctx, r.Caller, rooms("SetMembership", req.Room, true), req)
}

// ForgetRoom implements Rooms.
func (r Remote) ForgetRoom(ctx context.Context, user id.User, room id.Room) error {
	return rpc.Do(ctx, r.Caller, rooms("ForgetRoom", room, true), user, room)
}

// UpgradeRoom implements Rooms.
func (r Remote) UpgradeRoom(ctx context.Context, req UpgradeRoom) (id.Room, error) {
	return rpc.Get[id.Room](ctx, r.Caller, rooms("UpgradeRoom", req.Room, false), req)
}

// Backfill implements Rooms.
func (r Remote) Backfill(ctx context.Context, req Backfill) (stored bool, err error) {
	return rpc.Get[bool](ctx, r.Caller, rooms("Backfill", req.Room, true), req)
}

// FetchEvent implements Rooms.
func (r Remote) FetchEvent(ctx context.Context, room id.Room, event id.Event) (nid.Event, error) {
	return rpc.Get[nid.Event](ctx, r.Caller, rooms("FetchEvent", room, true), room, event)
}

// ResolveAlias implements Directory.
func (r Remote) ResolveAlias(ctx context.Context, alias id.RoomAlias) (ResolvedAlias, error) {
	return rpc.Get[ResolvedAlias](ctx, r.Caller, directory("ResolveAlias"), alias)
}

// CreateAlias implements Directory.
func (r Remote) CreateAlias(ctx context.Context, alias id.RoomAlias, room id.Room, creator id.User) error {
	c := directory("CreateAlias")
	c.Again = false // the second time it is taken
	return rpc.Do(ctx, r.Caller, c, alias, room, creator)
}

// DeleteAlias implements Directory.
func (r Remote) DeleteAlias(ctx context.Context, alias id.RoomAlias, by id.User) error {
	c := directory("DeleteAlias")
	c.Again = false // the second time it is not there
	return rpc.Do(ctx, r.Caller, c, alias, by)
}

// ListAliases implements Directory.
func (r Remote) ListAliases(ctx context.Context, room id.Room) ([]id.RoomAlias, error) {
	return rpc.Get[[]id.RoomAlias](ctx, r.Caller, directory("ListAliases"), room)
}

// SetPublished implements Directory.
func (r Remote) SetPublished(ctx context.Context, room id.Room, published bool) error {
	return rpc.Do(ctx, r.Caller, directory("SetPublished"), room, published)
}

// IsPublished implements Directory.
func (r Remote) IsPublished(ctx context.Context, room id.Room) (bool, error) {
	return rpc.Get[bool](ctx, r.Caller, directory("IsPublished"), room)
}

// ListPublicRooms implements Directory.
func (r Remote) ListPublicRooms(ctx context.Context, req ListPublicRooms) (PublicRooms, error) {
	return rpc.Get[PublicRooms](ctx, r.Caller, directory("ListPublicRooms"), req)
}

// ReceiveTransaction implements Federation. A transaction is of many rooms: it is staged where it came in.
func (r Remote) ReceiveTransaction(ctx context.Context, req Transaction) (map[id.Event]string, error) {
	return rpc.Get[map[id.Event]string](ctx, r.Caller, federation("ReceiveTransaction", ""), req)
}

// MakeMembership implements Federation.
func (r Remote) MakeMembership(ctx context.Context, req MakeMembership) (MembershipTemplate, error) {
	return rpc.Get[MembershipTemplate](ctx, r.Caller, federation("MakeMembership", req.Room), req)
}

// SendMembership implements Federation.
func (r Remote) SendMembership(ctx context.Context, req SendMembership) (SentMembership, error) {
	return rpc.Get[SentMembership](ctx, r.Caller, federation("SendMembership", req.Room), req)
}

// ReceiveInvite implements Federation.
func (r Remote) ReceiveInvite(ctx context.Context, req ReceiveInvite) (signed json.RawMessage, err error) {
	return rpc.Get[json.RawMessage](ctx, r.Caller, federation("ReceiveInvite", req.Room), req)
}

// RoomsMethods lists the methods of Rooms, for processes that run the component.
func RoomsMethods(c Rooms) rpc.Methods {
	return rpc.Methods{
		"CreateRoom": c.CreateRoom, "SendEvent": c.SendEvent, "SetMembership": c.SetMembership, "ForgetRoom": c.ForgetRoom,
		"UpgradeRoom": c.UpgradeRoom, "Backfill": c.Backfill, "FetchEvent": c.FetchEvent,
	}
}

// DirectoryMethods lists the methods of Directory, for processes that run the component.
func DirectoryMethods(c Directory) rpc.Methods {
	return rpc.Methods{
		"ResolveAlias": c.ResolveAlias, "CreateAlias": c.CreateAlias, "DeleteAlias": c.DeleteAlias, "ListAliases": c.ListAliases,
		"SetPublished": c.SetPublished, "IsPublished": c.IsPublished, "ListPublicRooms": c.ListPublicRooms,
	}
}

// FederationMethods lists the methods of Federation, for processes that run the component.
func FederationMethods(c Federation) rpc.Methods {
	return rpc.Methods{
		"ReceiveTransaction": c.ReceiveTransaction, "MakeMembership": c.MakeMembership, "SendMembership": c.SendMembership,
		"ReceiveInvite": c.ReceiveInvite,
	}
}
