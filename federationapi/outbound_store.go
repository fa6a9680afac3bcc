package federationapi

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"weft/internal/sqldb"
	"weft/matrix/id"
)

const (
	takeHeadSQL = `INSERT INTO fed_cursor (shard, owner, pos) VALUES `
	takeTailSQL = ` ON CONFLICT (shard) DO UPDATE SET owner = excluded.owner RETURNING shard, pos`
	// Nothing but a cursor of the same owner is moved, and only forward. <=, because a
	// commit whose outcome was not known is done again.
	saveHeadSQL = takeHeadSQL
	saveTailSQL = ` ON CONFLICT (shard) DO UPDATE SET pos = excluded.pos
		WHERE fed_cursor.owner = excluded.owner AND fed_cursor.pos <= excluded.pos RETURNING shard, pos`
	fenceSQL  = `SELECT pos FROM fed_cursor WHERE shard = $1 AND owner = $2`
	ownersSQL = `SELECT shard, owner FROM fed_cursor`

	selectBehindSQL = `SELECT server, pos, failures, retry_ts, failing_ts FROM fed_destinations`
	upsertBehindSQL = `INSERT INTO fed_destinations (server, pos, failures, retry_ts, failing_ts) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (server) DO UPDATE SET pos = excluded.pos, failures = excluded.failures, retry_ts = excluded.retry_ts,
			failing_ts = excluded.failing_ts`
	deleteBehindSQL = `DELETE FROM fed_destinations WHERE server = $1`

	insertEDUSQL  = `INSERT INTO fed_edus (server, edu) VALUES ($1, $2)`
	selectEDUsSQL = `SELECT seq, edu FROM fed_edus WHERE server = $1 ORDER BY seq LIMIT $2`
	deleteEDUSQL  = `DELETE FROM fed_edus WHERE seq = $1`
	// Each server is one step in the index, however many EDUs wait for it.
	selectWaitingSQL = `WITH RECURSIVE waiting (server) AS (
			SELECT MIN(server) FROM fed_edus
			UNION ALL
			SELECT (SELECT MIN(server) FROM fed_edus WHERE server > w.server) FROM waiting w WHERE w.server IS NOT NULL)
		SELECT server FROM waiting WHERE server IS NOT NULL`
	deleteOldEDUsSQL = `DELETE FROM fed_edus WHERE server = $1 AND seq <= (SELECT seq FROM fed_edus WHERE server = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2)`
)

// behindRow is a row of fed_destinations.
type behindRow struct {
	server   id.Server
	pos      int64
	failures int
	retryTS  int64
	// failingTS is when the first of the failures was; 0: there are none.
	failingTS int64
}

// outStore is the tables of the outbound side.
type outStore struct {
	db      *sqldb.DB
	maxEDUs int // kept for one destination
}

// cursor is how far a shard got.
type cursor struct {
	shard int
	owner int64
	pos   int64
}

func cursorRows(list []cursor) [][]any {
	slices.SortFunc(list, func(a, b cursor) int { return a.shard - b.shard }) // locked in one order
	rows := make([][]any, len(list))
	for i, c := range list {
		rows[i] = []any{c.shard, c.owner, c.pos}
	}
	return rows
}

// taken is what was found at shards that were taken: how far each got, and of all shards who is behind
// and for whom EDUs wait.
type taken struct {
	pos     map[int]int64
	behind  []behindRow
	waiting []id.Server
}

// take makes somebody the owner of shards. It waits for what the owner before is writing, and is
// in the same transaction as what it reads: of what that owner writes either all
// is seen here or it is refused.
func (st outStore) take(ctx context.Context, shards []int, owner int64) (t taken, err error) {
	list := make([]cursor, len(shards))
	for i, n := range shards {
		list[i] = cursor{n, owner, 0}
	}
	err = st.db.Update(ctx, func(tx *sqldb.Tx) (err error) {
		t = taken{pos: map[int]int64{}}
		err = sqldb.InsertReturning(ctx, tx, takeHeadSQL, cursorRows(list), takeTailSQL, func(scan func(...any) error) error {
			var n int
			var pos int64
			err := scan(&n, &pos)
			t.pos[n] = pos
			return err
		})
		if err != nil {
			return fmt.Errorf("federationapi: taking shards: %w", err)
		}
		if t.behind, err = listBehind(ctx, tx); err != nil {
			return err
		}
		t.waiting, err = listWaiting(ctx, tx)
		return err
	})
	return t, err
}

// setCursors moves cursors forward. It returns the shards that have another owner
// by now, whose cursors stay.
func (st outStore) setCursors(ctx context.Context, list []cursor) (refused map[int]bool, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	err = st.db.Update(ctx, func(tx *sqldb.Tx) error {
		refused = make(map[int]bool, len(list))
		for _, c := range list {
			refused[c.shard] = true
		}
		return sqldb.InsertReturning(ctx, tx, saveHeadSQL, cursorRows(list), saveTailSQL, func(scan func(...any) error) error {
			var n int
			var pos int64
			err := scan(&n, &pos)
			delete(refused, n)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("federationapi: moving the cursors: %w", err)
	}
	return refused, nil
}

// fence fails with errFenced where a share has another owner by now, and keeps it
// from getting one before tx ends.
//
// Rows of fed_destinations are behind it. Each row says what is true (the
// destination has all events up to there), also when a stale owner writes it, but
// that is not enough: a stale owner that removes a row would remove the only note
// of what the new owner has yet to send, and one that writes it again would leave
// it there for ever. EDUs are not behind it: they are removed by
// number after they were delivered, which is right whoever delivered them, and a fence
// would only make the new owner send them again.
func (st outStore) fence(ctx context.Context, tx *sqldb.Tx, sh *share) error {
	q := fenceSQL
	if st.db.Dialect() == sqldb.Postgres { // SQLite has one writer
		q += ` FOR SHARE`
	}
	var pos int64
	err := tx.QueryRow(ctx, q, sh.n, sh.owner).Scan(&pos)
	if errors.Is(err, sql.ErrNoRows) {
		return errFenced
	}
	if err != nil {
		return fmt.Errorf("federationapi: looking whose a shard is: %w", err)
	}
	return nil
}

// owners gives who took each shard last.
func (st outStore) owners(ctx context.Context) (map[int]int64, error) {
	rows, err := st.db.Query(ctx, ownersSQL)
	if err != nil {
		return nil, fmt.Errorf("federationapi: reading whose the shards are: %w", err)
	}
	defer rows.Close()
	out := make(map[int]int64, Shards)
	for rows.Next() {
		var n int
		var owner int64
		if err := rows.Scan(&n, &owner); err != nil {
			return nil, fmt.Errorf("federationapi: reading whose the shards are: %w", err)
		}
		out[n] = owner
	}
	return out, rows.Err()
}

func listBehind(ctx context.Context, q sqldb.Querier) (out []behindRow, err error) {
	rows, err := q.Query(ctx, selectBehindSQL)
	if err != nil {
		return nil, fmt.Errorf("federationapi: reading destinations: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var r behindRow
		if err := rows.Scan(&r.server, &r.pos, &r.failures, &r.retryTS, &r.failingTS); err != nil {
			return nil, fmt.Errorf("federationapi: reading destinations: %w", err)
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// setBehind stores destinations of one share.
func (st outStore) setBehind(ctx context.Context, sh *share, rows ...behindRow) error {
	if len(rows) == 0 {
		return nil
	}
	return st.db.Update(ctx, func(tx *sqldb.Tx) error {
		if err := st.fence(ctx, tx, sh); err != nil {
			return err
		}
		for _, r := range rows {
			if _, err := tx.Exec(ctx, upsertBehindSQL, string(r.server), r.pos, r.failures, r.retryTS, r.failingTS); err != nil {
				return fmt.Errorf("federationapi: storing a destination: %w", err)
			}
		}
		return nil
	})
}

func (st outStore) deleteBehind(ctx context.Context, sh *share, server id.Server) error {
	return st.db.Update(ctx, func(tx *sqldb.Tx) error {
		if err := st.fence(ctx, tx, sh); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, deleteBehindSQL, string(server)); err != nil {
			return fmt.Errorf("federationapi: removing a destination: %w", err)
		}
		return nil
	})
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
func listWaiting(ctx context.Context, q sqldb.Querier) (out []id.Server, err error) {
	rows, err := q.Query(ctx, selectWaitingSQL)
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
