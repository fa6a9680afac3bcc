package cluster

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strings"
	"time"

	"weft/internal/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate creates the tables of the cluster, or brings them up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error {
	return db.Migrate(ctx, "cluster", migrations)
}

// row is a node as it stands in the table.
type row struct {
	Node
	beat int64
}

// table is where nodes meet.
type table interface {
	// put writes the row of this node and says whether it had to be added.
	put(ctx context.Context, r row) (added bool, err error)
	// list gives all rows in the order of their ids, at most MaxNodes+1.
	list(ctx context.Context) ([]row, error)
	// remove deletes those of the rows whose beat is still the same.
	remove(ctx context.Context, rows []row) error
	// leave deletes a row, whatever its beat.
	leave(ctx context.Context, id string) error
}

const (
	updateNodeSQL = `UPDATE cluster_nodes SET beat = $2, load = $3, leaving = $4, address = $5, http = $6, schemas = $7 WHERE id = $1`
	insertNodeSQL = `INSERT INTO cluster_nodes (id, beat, load, leaving, address, http, schemas, components, version, started)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`
	listNodesSQL = `SELECT id, beat, load, leaving, address, http, schemas, components, version, started FROM cluster_nodes
		ORDER BY id LIMIT $1`
	removeNodeSQL = `DELETE FROM cluster_nodes WHERE id = $1 AND beat = $2`
	leaveSQL      = `DELETE FROM cluster_nodes WHERE id = $1`
)

// sqlTable is the table in the database.
type sqlTable struct{ db *sqldb.DB }

func (t sqlTable) put(ctx context.Context, r row) (added bool, err error) {
	err = t.db.Update(ctx, func(tx *sqldb.Tx) error {
		added = false
		res, err := tx.Exec(ctx, updateNodeSQL, r.ID, r.beat, r.Load, r.Leaving, r.Address, r.HTTP, r.Schemas)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err != nil || n > 0 {
			return err
		}
		added = true
		_, err = tx.Exec(ctx, insertNodeSQL, r.ID, r.beat, r.Load, r.Leaving, r.Address, r.HTTP, r.Schemas,
			strings.Join(r.Components, ","), r.Version, r.Started.UnixMilli())
		return err
	})
	return added, err
}

func (t sqlTable) list(ctx context.Context) (list []row, err error) {
	rows, err := t.db.Query(ctx, listNodesSQL, MaxNodes+1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var r row
		var components string
		var started, leaving int64
		if err := rows.Scan(&r.ID, &r.beat, &r.Load, &leaving, &r.Address, &r.HTTP, &r.Schemas, &components, &r.Version, &started); err != nil {
			return nil, err
		}
		r.Leaving, r.Started = leaving != 0, time.UnixMilli(started)
		if components != "" {
			r.Components = strings.Split(components, ",")
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

func (t sqlTable) remove(ctx context.Context, rows []row) error {
	return t.db.Update(ctx, func(tx *sqldb.Tx) error {
		for _, r := range rows {
			if _, err := tx.Exec(ctx, removeNodeSQL, r.ID, r.beat); err != nil {
				return fmt.Errorf("node %s: %w", r.ID, err)
			}
		}
		return nil
	})
}

func (t sqlTable) leave(ctx context.Context, id string) error {
	_, err := t.db.Exec(ctx, leaveSQL, id)
	return err
}
