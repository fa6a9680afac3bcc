package clientapi

import (
	"context"
	"encoding/json"
	"sync"

	"weft/internal/nid"
	keyapi "weft/keyserver/api"
	"weft/matrix/id"
	"weft/matrix/merr"
	roomapi "weft/roomserver/api"
	syncapi "weft/syncapi/api"
)

func (*fakeSync) GetPresence(context.Context, id.User) (syncapi.Presence, error) {
	return syncapi.Presence{}, merr.NotFound("no presence here")
}

// fakeRooms records what it is asked for; err is what it answers.
type fakeRooms struct {
	mu      sync.Mutex
	err     error
	created []roomapi.CreateRoom
	sent    []roomapi.SendEvent
	members []roomapi.SetMembership
	forgot  []id.Room
	upgrade []roomapi.UpgradeRoom
}

func (f *fakeRooms) CreateRoom(_ context.Context, q roomapi.CreateRoom) (id.Room, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.created = append(f.created, q)
	return "!new:test", f.err
}

func (f *fakeRooms) SendEvent(_ context.Context, q roomapi.SendEvent) (id.Event, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, q)
	return "$sent", f.err
}

func (f *fakeRooms) SetMembership(_ context.Context, q roomapi.SetMembership) (id.Room, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.members = append(f.members, q)
	return q.Room, f.err
}

func (f *fakeRooms) ForgetRoom(_ context.Context, _ id.User, room id.Room) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgot = append(f.forgot, room)
	return f.err
}

func (f *fakeRooms) UpgradeRoom(_ context.Context, q roomapi.UpgradeRoom) (id.Room, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.upgrade = append(f.upgrade, q)
	return "!upgraded:test", f.err
}

func (f *fakeRooms) Backfill(context.Context, roomapi.Backfill) (bool, error) { return false, nil }

func (f *fakeRooms) FetchEvent(context.Context, id.Room, id.Event) (nid.Event, error) {
	return 0, merr.NotFound("no such event")
}

// fakeDirectory keeps aliases and published rooms in maps.
type fakeDirectory struct {
	mu        sync.Mutex
	aliases   map[id.RoomAlias]id.Room
	published map[id.Room]bool
	list      roomapi.ListPublicRooms
}

func (f *fakeDirectory) ResolveAlias(_ context.Context, a id.RoomAlias) (roomapi.ResolvedAlias, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	room, ok := f.aliases[a]
	if !ok {
		return roomapi.ResolvedAlias{}, merr.NotFound("no such alias")
	}
	return roomapi.ResolvedAlias{Room: room, Servers: []id.Server{"test", "away"}}, nil
}

func (f *fakeDirectory) CreateAlias(_ context.Context, a id.RoomAlias, room id.Room, _ id.User) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.aliases[a]; ok {
		return merr.RoomInUse("taken").WithStatus(409)
	}
	if f.aliases == nil {
		f.aliases = map[id.RoomAlias]id.Room{}
	}
	f.aliases[a] = room
	return nil
}

func (f *fakeDirectory) DeleteAlias(_ context.Context, a id.RoomAlias, _ id.User) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.aliases[a]; !ok {
		return merr.NotFound("no such alias")
	}
	delete(f.aliases, a)
	return nil
}

func (f *fakeDirectory) ListAliases(_ context.Context, room id.Room) ([]id.RoomAlias, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []id.RoomAlias
	for a, r := range f.aliases {
		if r == room {
			out = append(out, a)
		}
	}
	return out, nil
}

func (f *fakeDirectory) SetPublished(_ context.Context, room id.Room, on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.published == nil {
		f.published = map[id.Room]bool{}
	}
	f.published[room] = on
	return nil
}

func (f *fakeDirectory) IsPublished(_ context.Context, room id.Room) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.published[room], nil
}

func (f *fakeDirectory) ListPublicRooms(_ context.Context, q roomapi.ListPublicRooms) (roomapi.PublicRooms, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = q
	return roomapi.PublicRooms{Chunk: []roomapi.PublicRoom{{RoomID: "!public:test"}}, Total: 1}, nil
}

// fakeKeys records devices and keeps cross-signing keys.
type fakeKeys struct {
	mu       sync.Mutex
	changed  []id.Device
	deleted  []id.Device
	uploaded []keyapi.UploadKeys
	queried  keyapi.QueryKeys
	claimed  keyapi.ClaimKeys
	cross    string
	joined   []string
	err      error
}

func (f *fakeKeys) UploadKeys(_ context.Context, q keyapi.UploadKeys) (map[string]int, error) {
	f.uploaded = append(f.uploaded, q)
	return map[string]int{"signed_curve25519": len(q.OneTimeKeys)}, f.err
}

func (f *fakeKeys) QueryKeys(_ context.Context, q keyapi.QueryKeys) (keyapi.QueriedKeys, error) {
	f.queried = q
	return keyapi.QueriedKeys{DeviceKeys: map[id.User]map[id.Device]json.RawMessage{}}, f.err
}

func (f *fakeKeys) ClaimKeys(_ context.Context, q keyapi.ClaimKeys) (keyapi.ClaimedKeys, error) {
	f.claimed = q
	return keyapi.ClaimedKeys{}, f.err
}

func (f *fakeKeys) UploadCrossSigning(_ context.Context, q keyapi.UploadCrossSigning) error {
	f.cross = string(q.Master) + string(q.SelfSigning)
	return f.err
}

func (f *fakeKeys) HasCrossSigning(_ context.Context, q keyapi.UploadCrossSigning) (bool, bool, error) {
	return f.cross != "", f.cross == string(q.Master)+string(q.SelfSigning), nil
}

func (f *fakeKeys) UploadSignatures(_ context.Context, _ id.User, body json.RawMessage) (json.RawMessage, error) {
	return json.RawMessage(`{}`), f.err
}

func (f *fakeKeys) KeyCounts(context.Context, id.User, id.Device) (keyapi.KeyCounts, error) {
	return keyapi.KeyCounts{OneTime: map[string]int{"signed_curve25519": 3}}, f.err
}

func (f *fakeKeys) ListChanged(context.Context, int64, int64) ([]id.User, error) { return nil, nil }

func (f *fakeKeys) DeleteDevices(_ context.Context, _ id.User, d []id.Device) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deleted = append(f.deleted, d...)
	return f.err
}

func (f *fakeKeys) DeviceChanged(_ context.Context, _ id.User, d id.Device, _ string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed = append(f.changed, d)
	return nil
}

func (f *fakeKeys) JoinedRoom(_ context.Context, user id.User, room id.Room) error {
	f.joined = append(f.joined, string(user)+" "+string(room))
	return f.err
}

func (f *fakeKeys) GetUserDevices(context.Context, id.User) (json.RawMessage, error) { return nil, nil }

func (f *fakeKeys) ReceiveEDU(context.Context, id.Server, string, json.RawMessage) error { return nil }

type fakeToDevice struct{ sent []keyapi.SendToDevice }

func (f *fakeToDevice) SendToDevice(_ context.Context, q keyapi.SendToDevice) error {
	f.sent = append(f.sent, q)
	return nil
}

func (f *fakeToDevice) ReceiveToDevice(context.Context, id.Server, json.RawMessage) error { return nil }

func (f *fakeToDevice) ListMessages(context.Context, id.User, id.Device, int64, int64, int) ([]json.RawMessage, int64, error) {
	return nil, 0, nil
}

func (f *fakeToDevice) DeleteMessages(context.Context, id.User, id.Device, int64) error { return nil }

// fakeBackup keeps one version of a backup.
type fakeBackup struct {
	version string
	keys    map[id.Room]map[string]json.RawMessage
}

func (f *fakeBackup) CreateVersion(context.Context, id.User, string, json.RawMessage) (string, error) {
	f.version, f.keys = "1", map[id.Room]map[string]json.RawMessage{}
	return f.version, nil
}

func (f *fakeBackup) GetVersion(_ context.Context, _ id.User, v string) (keyapi.BackupVersion, error) {
	if f.version == "" || v != "" && v != f.version {
		return keyapi.BackupVersion{}, merr.NotFound("no backup")
	}
	return keyapi.BackupVersion{Algorithm: "a", AuthData: json.RawMessage(`{}`), Version: f.version, ETag: "e"}, nil
}

func (f *fakeBackup) UpdateVersion(context.Context, id.User, string, string, json.RawMessage) error {
	return nil
}

func (f *fakeBackup) DeleteVersion(context.Context, id.User, string) error {
	f.version = ""
	return nil
}

func (f *fakeBackup) PutKeys(_ context.Context, _ id.User, v string, keys map[id.Room]map[string]json.RawMessage) (keyapi.BackupState, error) {
	if v != f.version {
		return keyapi.BackupState{}, merr.WrongRoomKeysVersion("old").With("current_version", f.version)
	}
	var n int64
	for room, sessions := range keys {
		if f.keys[room] == nil {
			f.keys[room] = map[string]json.RawMessage{}
		}
		for s, k := range sessions {
			f.keys[room][s] = k
			n++
		}
	}
	return keyapi.BackupState{Count: n, ETag: "e"}, nil
}

func (f *fakeBackup) GetKeys(_ context.Context, _ id.User, _ string, room id.Room, session string) (map[id.Room]map[string]json.RawMessage, error) {
	out := map[id.Room]map[string]json.RawMessage{}
	for r, sessions := range f.keys {
		for s, k := range sessions {
			if (room == "" || r == room) && (session == "" || s == session) {
				if out[r] == nil {
					out[r] = map[string]json.RawMessage{}
				}
				out[r][s] = k
			}
		}
	}
	return out, nil
}

func (f *fakeBackup) DeleteKeys(_ context.Context, _ id.User, _ string, room id.Room, _ string) (keyapi.BackupState, error) {
	delete(f.keys, room)
	return keyapi.BackupState{ETag: "e2"}, nil
}
