package clientapi

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"weft/clientapi/api"
	"weft/internal/bus"
	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	upsertAccountData = `INSERT INTO account_data (localpart, room_id, type, content, pos) VALUES ($1, $2, $3, $4, $5)
	ON CONFLICT (localpart, room_id, type) DO UPDATE SET content = excluded.content, pos = excluded.pos`
	selectAccountData  = `SELECT content FROM account_data WHERE localpart = $1 AND room_id = $2 AND type = $3`
	selectAccountDatas = `SELECT room_id, type, content, pos FROM account_data
	WHERE localpart = $1 AND pos > $2 AND pos <= $3 ORDER BY pos`
	// The condition is that of the index account_data_rules.
	selectRuleChanges = `SELECT localpart FROM account_data
	WHERE room_id = '' AND type IN ('m.push_rules', 'm.ignored_user_list') AND pos > $1`
	countAccountData = `SELECT COUNT(*) FROM account_data WHERE localpart = $1`
)

const (
	maxDataType = 255
	// maxAccountData bounds the pieces of account data of a user; tombstones of
	// deleted ones count.
	maxAccountData = 20_000
	// maxDataContent bounds one piece, in bytes. m.direct of a busy user is the
	// largest that clients write.
	maxDataContent = 512 << 10
)

// GetAccountData implements api.Accounts.
func (s *Server) GetAccountData(ctx context.Context, user id.User, room id.Room, typ string) (json.RawMessage, error) {
	content, err := readAccountData(ctx, s.db, user, room, typ)
	if err != nil {
		return nil, err
	}
	if typ == typePushRules && room == "" {
		return effectiveRules(content, user)
	}
	if content == nil {
		return nil, merr.NotFound("there is no account data of type %q", typ)
	}
	return content, nil
}

// readAccountData returns nil where there is none.
func readAccountData(ctx context.Context, q sqldb.Querier, user id.User, room id.Room, typ string) (json.RawMessage, error) {
	var content sql.NullString
	err := q.QueryRow(ctx, selectAccountData, user.Localpart(), string(room), typ).Scan(&content)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !content.Valid {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading account data: %w", err)
	}
	return json.RawMessage(content.String), nil
}

// SetAccountData implements api.Accounts.
func (s *Server) SetAccountData(ctx context.Context, user id.User, room id.Room, typ string, content json.RawMessage) error {
	return s.changeAccountData(ctx, user, room, typ, func(*sqldb.Tx) (json.RawMessage, error) { return content, nil })
}

// errUnchanged ends changeAccountData without a change.
var errUnchanged = errors.New("the account data stays as it is")

// changeAccountData stores what change returns; it may read the old content in
// the same transaction, and may run more than once.
func (s *Server) changeAccountData(ctx context.Context, user id.User, room id.Room, typ string, change func(*sqldb.Tx) (json.RawMessage, error)) error {
	if !s.isLocal(user) {
		return merr.NotFound("%s is no user of this server", user)
	}
	err := s.data.Update(ctx, func(tx *sqldb.Tx) error {
		// The position is taken first: its row's lock keeps two changes of the
		// same content from losing one.
		pos, err := stream.Advance(ctx, tx, stream.AccountData, 1)
		if err != nil {
			return fmt.Errorf("storing account data: %w", err)
		}
		content, err := change(tx)
		if err != nil {
			return err
		}
		var value any
		if content != nil {
			value = string(content)
		}
		if _, err := tx.Exec(ctx, upsertAccountData, user.Localpart(), string(room), typ, value, pos); err != nil {
			return fmt.Errorf("storing account data: %w", err)
		}
		tx.OnCommit(func() {
			bus.PublishUpdate(s.cfg.Bus, bus.Update{Stream: stream.AccountData, Pos: pos, Users: []string{string(user)}})
		})
		return nil
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// ListAccountData implements api.Accounts. The push rules are in the first list
// of all (from 0) also where the user never changed them.
func (s *Server) ListAccountData(ctx context.Context, user id.User, from, to int64) ([]api.AccountData, error) {
	rows, err := s.db.Query(ctx, selectAccountDatas, user.Localpart(), from, to)
	if err != nil {
		return nil, fmt.Errorf("listing account data: %w", err)
	}
	defer rows.Close()
	var out []api.AccountData
	rules := false
	for rows.Next() {
		var d api.AccountData
		var content sql.NullString
		if err := rows.Scan(&d.Room, &d.Type, &content, &d.Pos); err != nil {
			return nil, fmt.Errorf("reading account data: %w", err)
		}
		if content.Valid {
			d.Content = json.RawMessage(content.String)
		}
		if d.Room == "" && d.Type == typePushRules {
			rules = true
			if d.Content, err = effectiveRules(d.Content, user); err != nil {
				return nil, err
			}
		}
		out = append(out, d)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("listing account data: %w", err)
	}
	if from == 0 && !rules {
		content, err := effectiveRules(nil, user)
		if err != nil {
			return nil, err
		}
		out = append([]api.AccountData{{Type: typePushRules, Content: content}}, out...)
	}
	return out, nil
}

// ListRuleChanges implements api.Accounts.
func (s *Server) ListRuleChanges(ctx context.Context, from int64) ([]id.User, error) {
	rows, err := s.db.Query(ctx, selectRuleChanges, from)
	if err != nil {
		return nil, fmt.Errorf("listing changed rules: %w", err)
	}
	defer rows.Close()
	var out []id.User
	for rows.Next() {
		var localpart string
		if err := rows.Scan(&localpart); err != nil {
			return nil, fmt.Errorf("listing changed rules: %w", err)
		}
		out = append(out, s.userID(localpart))
	}
	return out, rows.Err()
}

// dataVars reads the path variables of account data; room is empty for global
// data.
func dataVars(r *httpapi.Request) (room id.Room, typ string, err error) {
	if err := ownUser(r); err != nil {
		return "", "", err
	}
	if _, ok := r.Vars["roomId"]; ok {
		if room, err = r.RoomVar("roomId"); err != nil {
			return "", "", err
		}
	}
	typ = r.Vars["type"]
	if len(typ) > maxDataType {
		return "", "", merr.InvalidParam("the type is longer than %d bytes", maxDataType)
	}
	return room, typ, nil
}

// managed are types that only the server writes.
//
// spec: client-server §10.13 (PUT /account_data): m.fully_read has status 405, and so has m.push_rules
func managed(room id.Room, typ string) bool {
	return typ == "m.fully_read" && room != "" || typ == typePushRules && room == ""
}

// SetAccountDataOf is PUT …/account_data/{type}, of a user and of a room.
func (s *Server) SetAccountDataOf(ctx context.Context, r *httpapi.Request) (any, error) {
	room, typ, err := dataVars(r)
	if err != nil {
		return nil, err
	}
	if managed(room, typ) {
		return nil, merr.BadJSON("%s cannot be set here", typ).WithStatus(405)
	}
	if len(r.Body) == 0 {
		return nil, merr.NotJSON("the body is empty")
	}
	content, err := object(r.Body)
	if err != nil {
		return nil, err
	}
	if len(content) > maxDataContent {
		return nil, merr.TooLarge("account data may have %d bytes", maxDataContent)
	}
	err = s.changeAccountData(ctx, r.Session.User, room, typ, func(tx *sqldb.Tx) (json.RawMessage, error) {
		var n int64
		if err := tx.QueryRow(ctx, countAccountData, r.Session.User.Localpart()).Scan(&n); err != nil {
			return nil, fmt.Errorf("counting account data: %w", err)
		}
		if n >= maxAccountData {
			return nil, merr.ResourceLimitExceeded("the account has %d pieces of account data already", n)
		}
		return content, nil
	})
	return nil, err
}

// GetAccountDataOf is GET …/account_data/{type}, of a user and of a room.
func (s *Server) GetAccountDataOf(ctx context.Context, r *httpapi.Request) (any, error) {
	room, typ, err := dataVars(r)
	if err != nil {
		return nil, err
	}
	return s.GetAccountData(ctx, r.Session.User, room, typ)
}
