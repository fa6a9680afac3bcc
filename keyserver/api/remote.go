package api

import (
	"context"
	"encoding/json"

	"weft/internal/rpc"
	"weft/matrix/id"
)

// The names of the services of the key server.
const (
	KeysService     = "keyserver.Keys"
	ToDeviceService = "keyserver.ToDevice"
	BackupService   = "keyserver.Backup"
)

// Remote is the key server, in whichever process.
type Remote struct{ Caller rpc.Caller }

var (
	_ Keys     = Remote{}
	_ ToDevice = Remote{}
	_ Backup   = Remote{}
)

func keys(method string) rpc.Call {
	return rpc.Call{Service: KeysService, Method: method, Again: true}
}

func toDevice(method string) rpc.Call {
	return rpc.Call{Service: ToDeviceService, Method: method, Again: true}
}

func backup(method string) rpc.Call {
	return rpc.Call{Service: BackupService, Method: method, Again: true}
}

// UploadKeys implements Keys.
func (r Remote) UploadKeys(ctx context.Context, req UploadKeys) (counts map[string]int, err error) {
	return rpc.Get[map[string]int](ctx, r.Caller, keys("UploadKeys"), req)
}

// QueryKeys implements Keys.
func (r Remote) QueryKeys(ctx context.Context, req QueryKeys) (QueriedKeys, error) {
	return rpc.Get[QueriedKeys](ctx, r.Caller, keys("QueryKeys"), req)
}

// ClaimKeys implements Keys.
func (r Remote) ClaimKeys(ctx context.Context, req ClaimKeys) (ClaimedKeys, error) {
	c := keys("ClaimKeys")
	c.Again = false // each time uses keys up
	return rpc.Get[ClaimedKeys](ctx, r.Caller, c, req)
}

// UploadCrossSigning implements Keys.
func (r Remote) UploadCrossSigning(ctx context.Context, req UploadCrossSigning) error {
	return rpc.Do(ctx, r.Caller, keys("UploadCrossSigning"), req)
}

// HasCrossSigning implements Keys.
func (r Remote) HasCrossSigning(ctx context.Context, req UploadCrossSigning) (exists, matches bool, err error) {
	return rpc.Get2[bool, bool](ctx, r.Caller, keys("HasCrossSigning"), req)
}

// UploadSignatures implements Keys.
func (r Remote) UploadSignatures(ctx context.Context, user id.User, body json.RawMessage) (failures json.RawMessage, err error) {
	return rpc.Get[json.RawMessage](ctx, r.Caller, keys("UploadSignatures"), user, body)
}

// KeyCounts implements Keys.
func (r Remote) KeyCounts(ctx context.Context, user id.User, device id.Device) (KeyCounts, error) {
	return rpc.Get[KeyCounts](ctx, r.Caller, keys("KeyCounts"), user, device)
}

// ListChanged implements Keys.
func (r Remote) ListChanged(ctx context.Context, from, to int64) ([]id.User, error) {
	return rpc.Get[[]id.User](ctx, r.Caller, keys("ListChanged"), from, to)
}

// DeleteDevices implements Keys.
func (r Remote) DeleteDevices(ctx context.Context, user id.User, devices []id.Device) error {
	return rpc.Do(ctx, r.Caller, keys("DeleteDevices"), user, devices)
}

// DeviceChanged implements Keys.
func (r Remote) DeviceChanged(ctx context.Context, user id.User, device id.Device, displayName string) error {
	return rpc.Do(ctx, r.Caller, keys("DeviceChanged"), user, device, displayName)
}

// JoinedRoom implements Keys.
func (r Remote) JoinedRoom(ctx context.Context, user id.User, room id.Room) error {
	return rpc.Do(ctx, r.Caller, keys("JoinedRoom"), user, room)
}

// GetUserDevices implements Keys.
func (r Remote) GetUserDevices(ctx context.Context, user id.User) (json.RawMessage, error) {
	return rpc.Get[json.RawMessage](ctx, r.Caller, keys("GetUserDevices"), user)
}

// ReceiveEDU implements Keys.
func (r Remote) ReceiveEDU(ctx context.Context, origin id.Server, typ string, content json.RawMessage) error {
	return rpc.Do(ctx, r.Caller, keys("ReceiveEDU"), origin, typ, content)
}

// SendToDevice implements ToDevice.
func (r Remote) SendToDevice(ctx context.Context, req SendToDevice) error {
	c := toDevice("SendToDevice")
	c.Again = req.TxnID != ""
	return rpc.Do(ctx, r.Caller, c, req)
}

// ReceiveToDevice implements ToDevice.
func (r Remote) ReceiveToDevice(ctx context.Context, origin id.Server, content json.RawMessage) error {
	return rpc.Do(ctx, r.Caller, toDevice("ReceiveToDevice"), origin, content)
}

// ListMessages implements ToDevice.
func (r Remote) ListMessages(ctx context.Context, user id.User, device id.Device, from, to int64, limit int) (msgs []json.RawMessage, last int64, err error) {
	return rpc.Get2[[]json.RawMessage, int64](ctx, r.Caller, toDevice("ListMessages"), user, device, from, to, limit)
}

// DeleteMessages implements ToDevice.
func (r Remote) DeleteMessages(ctx context.Context, user id.User, device id.Device, upTo int64) error {
	return rpc.Do(ctx, r.Caller, toDevice("DeleteMessages"), user, device, upTo)
}

// CreateVersion implements Backup.
func (r Remote) CreateVersion(ctx context.Context, user id.User, algorithm string, authData json.RawMessage) (version string, err error) {
	c := backup("CreateVersion")
	c.Again = false
	return rpc.Get[string](ctx, r.Caller, c, user, algorithm, authData)
}

// GetVersion implements Backup.
func (r Remote) GetVersion(ctx context.Context, user id.User, version string) (BackupVersion, error) {
	return rpc.Get[BackupVersion](ctx, r.Caller, backup("GetVersion"), user, version)
}

// UpdateVersion implements Backup.
func (r Remote) UpdateVersion(ctx context.Context, user id.User, version, algorithm string, authData json.RawMessage) error {
	return rpc.Do(ctx, r.Caller, backup("UpdateVersion"), user, version, algorithm, authData)
}

// DeleteVersion implements Backup.
func (r Remote) DeleteVersion(ctx context.Context, user id.User, version string) error {
	return rpc.Do(ctx, r.Caller, backup("DeleteVersion"), user, version)
}

// PutKeys implements Backup.
func (r Remote) PutKeys(ctx context.Context, user id.User, version string, sessions map[id.Room]map[string]json.RawMessage) (BackupState, error) {
	return rpc.Get[BackupState](ctx, r.Caller, backup("PutKeys"), user, version, sessions)
}

// GetKeys implements Backup.
func (r Remote) GetKeys(ctx context.Context, user id.User, version string, room id.Room, session string) (map[id.Room]map[string]json.RawMessage, error) {
	return rpc.Get[map[id.Room]map[string]json.RawMessage](ctx, r.Caller, backup("GetKeys"), user, version, room, session)
}

// DeleteKeys implements Backup.
func (r Remote) DeleteKeys(ctx context.Context, user id.User, version string, room id.Room, session string) (BackupState, error) {
	return rpc.Get[BackupState](ctx, r.Caller, backup("DeleteKeys"), user, version, room, session)
}

// KeysMethods lists the methods of Keys, for processes that run the component.
func KeysMethods(c Keys) rpc.Methods {
	return rpc.Methods{
		"UploadKeys": c.UploadKeys, "QueryKeys": c.QueryKeys, "ClaimKeys": c.ClaimKeys, "UploadCrossSigning": c.UploadCrossSigning,
		"HasCrossSigning": c.HasCrossSigning, "UploadSignatures": c.UploadSignatures, "KeyCounts": c.KeyCounts,
		"ListChanged": c.ListChanged, "DeleteDevices": c.DeleteDevices, "DeviceChanged": c.DeviceChanged, "JoinedRoom": c.JoinedRoom,
		"GetUserDevices": c.GetUserDevices, "ReceiveEDU": c.ReceiveEDU,
	}
}

// ToDeviceMethods lists the methods of ToDevice, for processes that run the component.
func ToDeviceMethods(c ToDevice) rpc.Methods {
	return rpc.Methods{
		"SendToDevice": c.SendToDevice, "ReceiveToDevice": c.ReceiveToDevice, "ListMessages": c.ListMessages,
		"DeleteMessages": c.DeleteMessages,
	}
}

// BackupMethods lists the methods of Backup, for processes that run the component.
func BackupMethods(c Backup) rpc.Methods {
	return rpc.Methods{
		"CreateVersion": c.CreateVersion, "GetVersion": c.GetVersion, "UpdateVersion": c.UpdateVersion,
		"DeleteVersion": c.DeleteVersion, "PutKeys": c.PutKeys, "GetKeys": c.GetKeys, "DeleteKeys": c.DeleteKeys,
	}
}
