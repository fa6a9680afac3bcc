package stream

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"

	"weft/internal/sqldb"
)

// Name names a stream.
type Name string

// The streams. Typing and presence are not among them: they are not stored.
const (
	Events      Name = "events"       // events of rooms, as they became visible to clients
	AccountData Name = "account_data" // account data and tags, global and of rooms
	Receipts    Name = "receipts"     // read receipts and read markers
	ToDevice    Name = "to_device"    // to-device messages
	DeviceLists Name = "device_lists" // changes of users' devices and cross-signing keys
)

// Names lists all streams.
func Names() []Name { return []Name{Events, AccountData, Receipts, ToDevice, DeviceLists} }

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate creates the counters' table, or brings it up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error {
	return db.Migrate(ctx, "stream", migrations)
}

const advanceSQL = `INSERT INTO stream_positions (name, pos) VALUES ($1, $2)
	ON CONFLICT (name) DO UPDATE SET pos = stream_positions.pos + excluded.pos
	RETURNING pos`

// Advance takes the next n positions (n ≥ 1) of a stream: first, …, first+n-1 are the caller's once its
// transaction commits. They count from 1. It locks the stream's counter until the transaction
// ends, so call it as late as possible. Who needs several streams in one transaction takes them in the
// order of Names, else two such writers may lock each other out (and one of them runs again).
func Advance(ctx context.Context, tx *sqldb.Tx, s Name, n int64) (first int64, err error) {
	if n < 1 {
		return 0, fmt.Errorf("stream %s: cannot advance by %d", s, n)
	}
	var last int64
	if err := tx.QueryRow(ctx, advanceSQL, string(s), n).Scan(&last); err != nil {
		return 0, fmt.Errorf("stream %s: advance: %w", s, err)
	}
	return last - n + 1, nil
}

const positionSQL = `SELECT pos FROM stream_positions WHERE name = $1`

// Position returns the last position of a stream that q can see, 0 when nothing was written yet. All rows up to
// it can be seen too.
func Position(ctx context.Context, q sqldb.Querier, s Name) (int64, error) {
	var pos int64
	err := q.QueryRow(ctx, positionSQL, string(s)).Scan(&pos)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("stream %s: position: %w", s, err)
	}
	return pos, nil
}

const positionsSQL = `SELECT name, pos FROM stream_positions`

// Positions returns the last positions of all streams, seen at one moment. A stream in which nothing was written
// is missing.
func Positions(ctx context.Context, q sqldb.Querier) (_ map[Name]int64, err error) {
	rows, err := q.Query(ctx, positionsSQL)
	if err != nil {
		return nil, fmt.Errorf("stream positions: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	positions := make(map[Name]int64, len(Names()))
	for rows.Next() {
		var name Name
		var pos int64
		if err := rows.Scan(&name, &pos); err != nil {
			return nil, fmt.Errorf("stream positions: %w", err)
		}
		positions[name] = pos
	}
	return positions, rows.Err()
}
