package federationapi

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"weft/internal/sqldb"
	"weft/matrix/id"
)

const (
	selectCursorSQL = `SELECT pos FROM fed_cursor WHERE id = 1`
	upsertCursorSQL = `INSERT INTO fed_cursor (id, pos) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET pos = excluded.pos`

	selectBehindSQL = `SELECT server, pos, failures, retry_ts FROM fed_destinations`
	upsertBehindSQL = `INSERT INTO fed_destinations (server, pos, failures, retry_ts) VALUES ($1, $2, $3, $4)
		ON CONFLICT (server) DO UPDATE SET pos = excluded.pos, failures = excluded.failures, retry_ts = excluded.retry_ts`
	deleteBehindSQL = `DELETE FROM fed_destinations WHERE server = $1`

	insertEDUSQL     = `INSERT INTO fed_edus (server, edu) VALUES ($1, $2)`
	selectEDUsSQL    = `SELECT seq, edu FROM fed_edus WHERE server = $1 ORDER BY seq LIMIT $2`
	deleteEDUSQL     = `DELETE FROM fed_edus WHERE seq = $1`
	selectWaitingSQL = `SELECT DISTINCT server FROM fed_edus`
	deleteOldEDUsSQL = `DELETE FROM fed_edus WHERE server = $1 AND seq <= (SELECT seq FROM fed_edus WHERE server = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2)`
)

// behindRow is a row of fed_destinations.
type behindRow struct {
	server   id.Server
	pos      int64
	failures int
	retryTS  int64
}

// outStore is the tables of the outbound side.
type outStore struct {
	db      *sqldb.DB
	maxEDUs int // kept for one destination
}

func (st outStore) cursor(ctx context.Context) (int64, error) {
	var pos int64
	err := st.db.QueryRow(ctx, selectCursorSQL).Scan(&pos)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("federationapi: reading the cursor: %w", err)
	}
	return pos, nil
}

func (st outStore) setCursor(ctx context.Context, pos int64) error {
	if _, err := st.db.Exec(ctx, upsertCursorSQL, pos); err != nil {
		return fmt.Errorf("federationapi: moving the cursor: %w", err)
	}
	return nil
}

func (st outStore) listBehind(ctx context.Context) (out []behindRow, err error) {
	rows, err := st.db.Query(ctx, selectBehindSQL)
	if err != nil {
		return nil, fmt.Errorf("federationapi: reading destinations: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var r behindRow
		if err := rows.Scan(&r.server, &r.pos, &r.failures, &r.retryTS); err != nil {
			return nil, fmt.Errorf("federationapi: reading destinations: %w", err)
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

func (st outStore) setBehind(ctx context.Context, rows ...behindRow) error {
	if len(rows) == 0 {
		return nil
	}
	return st.db.Update(ctx, func(tx *sqldb.Tx) error {
		for _, r := range rows {
			if _, err := tx.Exec(ctx, upsertBehindSQL, string(r.server), r.pos, r.failures, r.retryTS); err != nil {
				return fmt.Errorf("federationapi: storing a destination: %w", err)
			}
		}
		return nil
	})
}

func (st outStore) deleteBehind(ctx context.Context, server id.Server) error {
	if _, err := st.db.Exec(ctx, deleteBehindSQL, string(server)); err != nil {
		return fmt.Errorf("federationapi: removing a destination: %w", err)
	}
	return nil
}

// putEDU stores an EDU for several destinations, and drops the oldest of those
// for which too many wait, if they are among crowded.
func (st outStore) putEDU(ctx context.Context, edu json.RawMessage, servers, crowded []id.Server) error {
	return st.db.Update(ctx, func(tx *sqldb.Tx) error {
		for _, server := range servers {
			if _, err := tx.Exec(ctx, insertEDUSQL, string(server), []byte(edu)); err != nil {
				return fmt.Errorf("federationapi: storing an EDU: %w", err)
			}
		}
		for _, server := range crowded {
			if _, err := tx.Exec(ctx, deleteOldEDUsSQL, string(server), st.maxEDUs); err != nil {
				return fmt.Errorf("federationapi: bounding EDUs: %w", err)
			}
		}
		return nil
	})
}

// storedEDU is a row of fed_edus.
type storedEDU struct {
	seq int64
	edu json.RawMessage
}

func (st outStore) listEDUs(ctx context.Context, server id.Server, limit int) (out []storedEDU, err error) {
	rows, err := st.db.Query(ctx, selectEDUsSQL, string(server), limit)
	if err != nil {
		return nil, fmt.Errorf("federationapi: reading EDUs: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var e storedEDU
		var b []byte
		if err := rows.Scan(&e.seq, &b); err != nil {
			return nil, fmt.Errorf("federationapi: reading EDUs: %w", err)
		}
		e.edu = b
		out = append(out, e)
	}
	return out, rows.Err()
}

func (st outStore) deleteEDUs(ctx context.Context, edus []storedEDU) error {
	if len(edus) == 0 {
		return nil
	}
	return st.db.Update(ctx, func(tx *sqldb.Tx) error {
		for _, e := range edus {
			if _, err := tx.Exec(ctx, deleteEDUSQL, e.seq); err != nil {
				return fmt.Errorf("federationapi: removing EDUs: %w", err)
			}
		}
		return nil
	})
}

// listWaiting lists the destinations for which EDUs wait.
func (st outStore) listWaiting(ctx context.Context) (out []id.Server, err error) {
	rows, err := st.db.Query(ctx, selectWaitingSQL)
	if err != nil {
		return nil, fmt.Errorf("federationapi: reading destinations of EDUs: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var s id.Server
		if err := rows.Scan(&s); err != nil {
			return nil, fmt.Errorf("federationapi: reading destinations of EDUs: %w", err)
		}
		out = append(out, s)
	}
	return out, rows.Err()
}
