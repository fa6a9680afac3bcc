package rpc

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"time"

	"weft/internal/sqldb"
	"weft/internal/upkeep"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// MaxBytes is how much the arguments or the results of a call may have.
	MaxBytes = 64 << 20

	spillPart = 1 << 20   // bytes of a row
	spillKept = time.Hour // what nobody came for
)

const (
	insertSpillSQL = `INSERT INTO rpc_spilled (id, part, created_ts, data) VALUES ($1, $2, $3, $4)`
	selectSpillSQL = `SELECT data FROM rpc_spilled WHERE id = $1 ORDER BY part`
	deleteSpillSQL = `DELETE FROM rpc_spilled WHERE id = $1`
	sweepSpillSQL  = `DELETE FROM rpc_spilled WHERE id IN (SELECT id FROM rpc_spilled WHERE created_ts < $1 LIMIT $2)`
)

// Spill leads data from one process to another through the database that both have.
type Spill struct {
	db  *sqldb.DB
	now func() time.Time
}

// NewSpill makes the table, and removes from it what nobody came for.
func NewSpill(ctx context.Context, db *sqldb.DB, keeper *upkeep.Keeper, now func() time.Time) (*Spill, error) {
	if err := db.Migrate(ctx, "rpc", migrations); err != nil {
		return nil, fmt.Errorf("rpc: %w", err)
	}
	s := &Spill{db, now}
	keeper.Add(upkeep.Task{Kind: "rpc_spilled", Every: spillKept, Run: func(ctx context.Context) (int64, error) {
		return upkeep.Delete(ctx, db, sweepSpillSQL, now().Add(-spillKept).UnixMilli())
	}})
	return s, nil
}

// put stores data and gives the name to take it by.
func (s *Spill) put(ctx context.Context, data []byte) (name string, err error) {
	name = rand.Text()
	err = s.db.Update(ctx, func(tx *sqldb.Tx) error {
		for part, rest := 0, data; len(rest) > 0; part++ {
			n := min(len(rest), spillPart)
			if _, err := tx.Exec(ctx, insertSpillSQL, name, part, s.now().UnixMilli(), rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("rpc: large data through the database: %w", err)
	}
	return name, nil
}

// take reads what was put, once.
func (s *Spill) take(ctx context.Context, name string) (data []byte, err error) {
	var all bytes.Buffer
	rows, err := s.db.Query(ctx, selectSpillSQL, name)
	if err != nil {
		return nil, fmt.Errorf("rpc: large data through the database: %w", err)
	}
	for rows.Next() {
		var part []byte
		if err = rows.Scan(&part); err != nil {
			break
		}
		all.Write(part)
	}
	if err := errors.Join(err, rows.Err(), rows.Close()); err != nil {
		return nil, fmt.Errorf("rpc: large data through the database: %w", err)
	}
	if all.Len() == 0 {
		return nil, errors.New("rpc: large data through the database: it is not there")
	}
	if _, err := s.db.Exec(ctx, deleteSpillSQL, name); err != nil {
		return nil, fmt.Errorf("rpc: large data through the database: %w", err)
	}
	return all.Bytes(), nil
}

// How data stands in a message.
const (
	formHere    = 0 // it follows
	formSpilled = 1 // its name follows
)

// pack makes a message at most limit bytes long.
func (s *Spill) pack(ctx context.Context, msg []byte, limit int) ([]byte, error) {
	if len(msg) <= limit {
		return msg, nil
	}
	data := msg[headBytes:]
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("rpc: %d bytes between processes, at most %d are allowed", len(data), MaxBytes)
	}
	name, err := s.put(ctx, data)
	packed := append(append(make([]byte, 0, headBytes+len(name)), msg[:headBytes]...), name...)
	packed[0] = formSpilled
	return packed, err
}

// unpack reads a message.
func (s *Spill) unpack(ctx context.Context, msg []byte) ([]byte, error) {
	switch {
	case len(msg) >= headBytes && msg[0] == formHere:
		return msg[headBytes:], nil
	case len(msg) >= headBytes && msg[0] == formSpilled:
		return s.take(ctx, string(msg[headBytes:]))
	}
	return nil, errors.New("rpc: a message of an unknown form")
}
