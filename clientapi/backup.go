package clientapi

import (
	"context"
	"encoding/json"

	"weft/internal/httpapi"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// maxBackupBody bounds an upload of keys, in bytes: clients send them in batches
// of some hundred sessions.
const maxBackupBody = 10 << 20

// backupVersionRequest is the body of POST and PUT /room_keys/version.
//
// spec: client-server §10.13.5 (Server-side key backups)
type backupVersionRequest struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Version   string          `json:"version"`
}

func readBackupVersion(r *httpapi.Request) (backupVersionRequest, error) {
	var q backupVersionRequest
	if err := r.DecodeJSON(&q); err != nil {
		return q, err
	}
	if q.Algorithm == "" || q.AuthData == nil {
		return q, merr.MissingParam("algorithm and auth_data are needed")
	}
	if err := checkText("algorithm", q.Algorithm, 255); err != nil {
		return q, err
	}
	_, err := object(q.AuthData)
	return q, err
}

// PostRoomKeysVersion is POST /room_keys/version.
func (s *Server) PostRoomKeysVersion(ctx context.Context, r *httpapi.Request) (any, error) {
	q, err := readBackupVersion(r)
	if err != nil {
		return nil, err
	}
	version, err := s.cfg.Backup.CreateVersion(ctx, r.Session.User, q.Algorithm, q.AuthData)
	if err != nil {
		return nil, err
	}
	return map[string]string{"version": version}, nil
}

// GetRoomKeysVersion is GET /room_keys/version and /room_keys/version/{version}.
func (s *Server) GetRoomKeysVersion(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.cfg.Backup.GetVersion(ctx, r.Session.User, r.Vars["version"])
}

// PutRoomKeysVersion is PUT /room_keys/version/{version}.
func (s *Server) PutRoomKeysVersion(ctx context.Context, r *httpapi.Request) (any, error) {
	q, err := readBackupVersion(r)
	if err != nil {
		return nil, err
	}
	if q.Version != "" && q.Version != r.Vars["version"] {
		return nil, merr.InvalidParam("the version in the body is not that in the path")
	}
	return nil, s.cfg.Backup.UpdateVersion(ctx, r.Session.User, r.Vars["version"], q.Algorithm, q.AuthData)
}

// DeleteRoomKeysVersion is DELETE /room_keys/version/{version}.
func (s *Server) DeleteRoomKeysVersion(ctx context.Context, r *httpapi.Request) (any, error) {
	return nil, s.cfg.Backup.DeleteVersion(ctx, r.Session.User, r.Vars["version"])
}

// backupVars reads what the endpoints of keys have in common.
func backupVars(r *httpapi.Request) (version string, room id.Room, session string, err error) {
	version = r.Query().Get("version")
	if version == "" {
		return "", "", "", merr.MissingParam("version is missing")
	}
	if _, ok := r.Vars["roomId"]; ok {
		if room, err = r.RoomVar("roomId"); err != nil {
			return "", "", "", err
		}
	}
	return version, room, r.Vars["sessionId"], nil
}

// roomSessions is the sessions of one room in a backup.
type roomSessions struct {
	Sessions map[string]json.RawMessage `json:"sessions"`
}

// PutRoomKeys is PUT /room_keys/keys, also of one room or session.
func (s *Server) PutRoomKeys(ctx context.Context, r *httpapi.Request) (any, error) {
	version, room, session, err := backupVars(r)
	if err != nil {
		return nil, err
	}
	keys := map[id.Room]map[string]json.RawMessage{}
	switch {
	case session != "":
		body, err := object(r.Body)
		if err != nil {
			return nil, err
		}
		keys[room] = map[string]json.RawMessage{session: body}
	case room != "":
		var q roomSessions
		if err := r.DecodeJSON(&q); err != nil {
			return nil, err
		}
		if q.Sessions == nil {
			return nil, merr.MissingParam("sessions is missing")
		}
		keys[room] = q.Sessions
	default:
		var q struct {
			Rooms map[id.Room]roomSessions `json:"rooms"`
		}
		if err := r.DecodeJSON(&q); err != nil {
			return nil, err
		}
		if q.Rooms == nil {
			return nil, merr.MissingParam("rooms is missing")
		}
		for room, sessions := range q.Rooms {
			keys[room] = sessions.Sessions
		}
	}
	if err := checkBackupKeys(keys); err != nil {
		return nil, err
	}
	return s.cfg.Backup.PutKeys(ctx, r.Session.User, version, keys)
}

func checkBackupKeys(keys map[id.Room]map[string]json.RawMessage) error {
	for room, sessions := range keys {
		if _, err := id.ParseRoom(string(room)); err != nil {
			return merr.InvalidParam("%q is no room ID", string(room))
		}
		for session, raw := range sessions {
			if err := checkText("session ID", session, 255); err != nil {
				return err
			}
			if err := checkBackupKey(raw); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkBackupKey holds one session to the shape of KeyBackupData.
func checkBackupKey(raw json.RawMessage) error {
	var k struct {
		First     *int64          `json:"first_message_index"`
		Forwarded *int64          `json:"forwarded_count"`
		Verified  *bool           `json:"is_verified"`
		Data      json.RawMessage `json:"session_data"`
	}
	if err := json.Unmarshal(raw, &k); err != nil {
		return merr.BadJSON("a session is of the wrong shape: %v", err)
	}
	if k.First == nil || k.Forwarded == nil || k.Verified == nil || k.Data == nil {
		return merr.BadJSON("a session needs first_message_index, forwarded_count, is_verified and session_data")
	}
	_, err := object(k.Data)
	return err
}

// GetRoomKeys is GET /room_keys/keys, also of one room or session.
func (s *Server) GetRoomKeys(ctx context.Context, r *httpapi.Request) (any, error) {
	version, room, session, err := backupVars(r)
	if err != nil {
		return nil, err
	}
	keys, err := s.cfg.Backup.GetKeys(ctx, r.Session.User, version, room, session)
	if err != nil {
		return nil, err
	}
	if session != "" {
		key, ok := keys[room][session]
		if !ok {
			return nil, merr.NotFound("the backup has no such session")
		}
		return key, nil
	}
	if room != "" {
		sessions := keys[room]
		if sessions == nil {
			sessions = map[string]json.RawMessage{}
		}
		return roomSessions{Sessions: sessions}, nil
	}
	rooms := make(map[id.Room]roomSessions, len(keys))
	for room, sessions := range keys {
		rooms[room] = roomSessions{Sessions: sessions}
	}
	return map[string]any{"rooms": rooms}, nil
}

// DeleteRoomKeys is DELETE /room_keys/keys, also of one room or session.
func (s *Server) DeleteRoomKeys(ctx context.Context, r *httpapi.Request) (any, error) {
	version, room, session, err := backupVars(r)
	if err != nil {
		return nil, err
	}
	state, err := s.cfg.Backup.DeleteKeys(ctx, r.Session.User, version, room, session)
	if err != nil {
		return nil, err
	}
	return state, nil
}
