package api

import (
	"context"
	"encoding/json"

	"weft/matrix/id"
)

// Keys holds the public keys of local devices and answers for remote ones.
type Keys interface {
	// UploadKeys stores device keys, one-time keys and fallback keys.
	UploadKeys(ctx context.Context, req UploadKeys) (counts map[string]int, err error)
	// QueryKeys answers for local users and asks other servers for theirs.
	QueryKeys(ctx context.Context, req QueryKeys) (QueriedKeys, error)
	// ClaimKeys hands out each one-time key once.
	ClaimKeys(ctx context.Context, req ClaimKeys) (ClaimedKeys, error)
	// UploadCrossSigning stores cross-signing keys; the caller did the
	// user-interactive authentication.
	UploadCrossSigning(ctx context.Context, req UploadCrossSigning) error
	// HasCrossSigning tells what is stored already, so that the caller knows
	// whether an upload needs user-interactive authentication. Matches reports
	// that req holds exactly the keys that are there.
	HasCrossSigning(ctx context.Context, req UploadCrossSigning) (exists, matches bool, err error)
	// UploadSignatures adds signatures to keys; failures by user and key ID.
	UploadSignatures(ctx context.Context, user id.User, body json.RawMessage) (failures json.RawMessage, err error)
	// KeyCounts gives what /sync shows of a device's keys.
	KeyCounts(ctx context.Context, user id.User, device id.Device) (KeyCounts, error)
	// ListChanged lists the users whose device lists changed in (from, to] of
	// the device-list stream. The caller keeps those it shares a room with.
	ListChanged(ctx context.Context, from, to int64) ([]id.User, error)
	// DeleteDevices removes a logged-out device's keys and messages.
	DeleteDevices(ctx context.Context, user id.User, devices []id.Device) error
	// DeviceChanged notes that a local device was created or renamed.
	DeviceChanged(ctx context.Context, user id.User, device id.Device, displayName string) error
	// JoinedRoom tells the servers which share a room with a local user for the
	// first time, because the user has joined it, that there are devices.
	JoinedRoom(ctx context.Context, user id.User, room id.Room) error
	// GetUserDevices answers another server's GET /user/devices/{userId}.
	GetUserDevices(ctx context.Context, user id.User) (json.RawMessage, error)
	// ReceiveEDU takes m.device_list_update and m.signing_key_update.
	ReceiveEDU(ctx context.Context, origin id.Server, typ string, content json.RawMessage) error
}

// ToDevice carries messages between devices.
type ToDevice interface {
	// SendToDevice stores messages for local devices and queues those for other
	// servers; both are durable when it returns.
	SendToDevice(ctx context.Context, req SendToDevice) error
	// ReceiveToDevice takes m.direct_to_device from another server, once per
	// message ID.
	ReceiveToDevice(ctx context.Context, origin id.Server, content json.RawMessage) error
	// ListMessages lists messages for a device in (from, to], oldest first, at
	// most limit. Last is the position reached.
	ListMessages(ctx context.Context, user id.User, device id.Device, from, to int64, limit int) (msgs []json.RawMessage, last int64, err error)
	// DeleteMessages deletes what the device has acknowledged.
	DeleteMessages(ctx context.Context, user id.User, device id.Device, upTo int64) error
}

// Backup keeps encrypted room keys. Errors are M_NOT_FOUND and
// M_WRONG_ROOM_KEYS_VERSION (with current_version).
type Backup interface {
	CreateVersion(ctx context.Context, user id.User, algorithm string, authData json.RawMessage) (version string, err error)
	// GetVersion returns one version, or the newest where version is empty.
	GetVersion(ctx context.Context, user id.User, version string) (BackupVersion, error)
	UpdateVersion(ctx context.Context, user id.User, version, algorithm string, authData json.RawMessage) error
	DeleteVersion(ctx context.Context, user id.User, version string) error
	// PutKeys stores sessions: room → session → KeyBackupData.
	PutKeys(ctx context.Context, user id.User, version string, keys map[id.Room]map[string]json.RawMessage) (BackupState, error)
	// GetKeys returns sessions; room and session narrow it where not empty.
	GetKeys(ctx context.Context, user id.User, version string, room id.Room, session string) (map[id.Room]map[string]json.RawMessage, error)
	DeleteKeys(ctx context.Context, user id.User, version string, room id.Room, session string) (BackupState, error)
}

// UploadKeys is POST /keys/upload.
type UploadKeys struct {
	User         id.User
	Device       id.Device
	DisplayName  string
	DeviceKeys   json.RawMessage // nil: unchanged
	OneTimeKeys  map[string]json.RawMessage
	FallbackKeys map[string]json.RawMessage
}

// QueryKeys is POST /keys/query. An empty device list means all devices.
type QueryKeys struct {
	// User is the local asker, who alone sees its user-signing key; empty when
	// Origin, another server, asks.
	User      id.User
	Origin    id.Server
	Devices   map[id.User][]id.Device
	TimeoutMS int64
}

// QueriedKeys is the response of POST /keys/query.
type QueriedKeys struct {
	DeviceKeys      map[id.User]map[id.Device]json.RawMessage `json:"device_keys"`
	Failures        map[id.Server]json.RawMessage             `json:"failures,omitempty"`
	MasterKeys      map[id.User]json.RawMessage               `json:"master_keys,omitempty"`
	SelfSigningKeys map[id.User]json.RawMessage               `json:"self_signing_keys,omitempty"`
	UserSigningKeys map[id.User]json.RawMessage               `json:"user_signing_keys,omitempty"`
}

// ClaimKeys is POST /keys/claim: user → device → algorithm.
type ClaimKeys struct {
	Origin    id.Server // empty: a local user asks
	Keys      map[id.User]map[id.Device]string
	TimeoutMS int64
}

// ClaimedKeys is the response of POST /keys/claim: user → device → key ID → key.
type ClaimedKeys struct {
	OneTimeKeys map[id.User]map[id.Device]map[string]json.RawMessage `json:"one_time_keys"`
	Failures    map[id.Server]json.RawMessage                        `json:"failures,omitempty"`
}

// UploadCrossSigning is POST /keys/device_signing/upload.
type UploadCrossSigning struct {
	User                             id.User
	Master, SelfSigning, UserSigning json.RawMessage
}

// KeyCounts is what /sync tells a device about its own keys.
type KeyCounts struct {
	OneTime        map[string]int
	UnusedFallback []string
}

// SendToDevice is PUT /sendToDevice/{eventType}/{txnId}; device "*" means all.
type SendToDevice struct {
	Sender   id.User
	Device   id.Device
	Type     string
	TxnID    string
	Messages map[id.User]map[id.Device]json.RawMessage
}

// BackupVersion describes one version of a key backup.
type BackupVersion struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Count     int64           `json:"count"`
	ETag      string          `json:"etag"`
	Version   string          `json:"version"`
}

// BackupState is what a change of a backup answers.
type BackupState struct {
	Count int64  `json:"count"`
	ETag  string `json:"etag"`
}
