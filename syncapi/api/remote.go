package api

import (
	"context"
	"encoding/json"

	"weft/internal/rpc"
	"weft/matrix/id"
)

// SyncService is the name of Sync among the services.
const SyncService = "syncapi.Sync"

// Remote is the sync API, in whichever process.
type Remote struct{ Caller rpc.Caller }

var _ Sync = Remote{}

func sync(method string) rpc.Call {
	return rpc.Call{Service: SyncService, Method: method, Again: true}
}

// ReceiveEDU implements Sync.
func (r Remote) ReceiveEDU(ctx context.Context, origin id.Server, typ string, content json.RawMessage) error {
	return rpc.Do(ctx, r.Caller, sync("ReceiveEDU"), origin, typ, content)
}

// GetPresence implements Sync.
func (r Remote) GetPresence(ctx context.Context, user id.User) (Presence, error) {
	return rpc.Get[Presence](ctx, r.Caller, sync("GetPresence"), user)
}

// DeleteUserData implements Sync.
func (r Remote) DeleteUserData(ctx context.Context, user id.User) error {
	return rpc.Do(ctx, r.Caller, sync("DeleteUserData"), user)
}

// SyncMethods lists the methods of Sync, for processes that run the component.
func SyncMethods(c Sync) rpc.Methods {
	return rpc.Methods{
		"ReceiveEDU": c.ReceiveEDU, "GetPresence": c.GetPresence, "DeleteUserData": c.DeleteUserData,
	}
}
