package keyring

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"embed"
	"errors"
	"fmt"

	"weft/internal/sqldb"
	"weft/internal/upkeep"
	"weft/matrix/id"
)

//go:embed migrations/*.sql
var migrations embed.FS

// SQLStore is a KeyStore in the server's database.
type SQLStore struct {
	db *sqldb.DB
}

// NewSQLStore brings the schema (component "fedclient") up to date and returns
// the store.
func NewSQLStore(ctx context.Context, db *sqldb.DB) (*SQLStore, error) {
	if err := db.Migrate(ctx, "fedclient", migrations); err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	return &SQLStore{db: db}, nil
}

const selectServer = `SELECT valid_until_ts, fetched_ts, json FROM fedclient_servers WHERE server_name = $1`

const selectKeys = `SELECT key_id, public_key, valid_until_ts, expired_ts FROM fedclient_keys WHERE server_name = $1`

// Load implements KeyStore.
func (s *SQLStore) Load(ctx context.Context, server id.Server) (*ServerKeys, error) {
	var out *ServerKeys
	err := s.db.View(ctx, func(tx *sqldb.Tx) error {
		sk := &ServerKeys{Server: server, Keys: map[id.KeyID]Key{}}
		out = nil
		err := tx.QueryRow(ctx, selectServer, string(server)).Scan(&sk.ValidUntilTS, &sk.FetchedTS, &sk.JSON)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := loadKeys(ctx, tx, sk); err != nil {
			return err
		}
		out = sk
		return nil
	})
	return out, err
}

func loadKeys(ctx context.Context, tx *sqldb.Tx, sk *ServerKeys) (err error) {
	rows, err := tx.Query(ctx, selectKeys, string(sk.Server))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var kid string
		var pub []byte
		var k Key
		if err := rows.Scan(&kid, &pub, &k.ValidUntilTS, &k.ExpiredTS); err != nil {
			return err
		}
		if len(pub) != ed25519.PublicKeySize {
			return fmt.Errorf("the stored key %s of %s has %d bytes", kid, sk.Server, len(pub))
		}
		k.Public = pub
		sk.Keys[id.KeyID(kid)] = k
	}
	return rows.Err()
}

const upsertServer = `
INSERT INTO fedclient_servers (server_name, valid_until_ts, fetched_ts, json) VALUES ($1, $2, $3, $4)
ON CONFLICT (server_name) DO UPDATE SET
    valid_until_ts = excluded.valid_until_ts, fetched_ts = excluded.fetched_ts, json = excluded.json`

const upsertKey = `
INSERT INTO fedclient_keys (server_name, key_id, public_key, valid_until_ts, expired_ts) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (server_name, key_id) DO UPDATE SET
    public_key = excluded.public_key, valid_until_ts = excluded.valid_until_ts, expired_ts = excluded.expired_ts`

// Save implements KeyStore. Keys that are stored but not in sk stay: merge never
// forgets one on purpose.
func (s *SQLStore) Save(ctx context.Context, sk *ServerKeys) error {
	return s.db.Update(ctx, func(tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, upsertServer, string(sk.Server), sk.ValidUntilTS, sk.FetchedTS, sk.JSON)
		if err != nil {
			return err
		}
		for kid, k := range sk.Keys {
			_, err := tx.Exec(ctx, upsertKey, string(sk.Server), string(kid), []byte(k.Public), k.ValidUntilTS, k.ExpiredTS)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

const (
	oldServers = `SELECT server_name FROM fedclient_servers WHERE server_name > $1 AND fetched_ts < $2 AND valid_until_ts < $2
		ORDER BY server_name LIMIT $3`
	deleteServer = `DELETE FROM fedclient_servers WHERE server_name = $1 AND fetched_ts < $2 AND valid_until_ts < $2`
	deleteKeys   = `DELETE FROM fedclient_keys WHERE server_name = $1`
)

// DeleteOld forgets the keys of servers that were neither fetched nor valid since a time in
// milliseconds: a server that is still there has been asked since. What it signed long ago can
// then be verified only with a notary's help.
func (s *SQLStore) DeleteOld(ctx context.Context, before int64) (int64, error) {
	after := ""
	return upkeep.Each(ctx, func() (int64, bool, error) {
		names, err := s.listOld(ctx, after, before)
		if err != nil || len(names) == 0 {
			return 0, false, err
		}
		after = names[len(names)-1]
		deleted := int64(0)
		err = s.db.Update(ctx, func(tx *sqldb.Tx) error {
			deleted = 0
			for _, name := range names {
				res, err := tx.Exec(ctx, deleteServer, name, before)
				if err != nil {
					return err
				}
				n, err := res.RowsAffected()
				if err != nil {
					return err
				}
				if n == 0 {
					continue // it was fetched just now
				}
				deleted += n
				if _, err := tx.Exec(ctx, deleteKeys, name); err != nil {
					return err
				}
			}
			return nil
		})
		return deleted, len(names) == upkeep.Batch, err
	})
}

func (s *SQLStore) listOld(ctx context.Context, after string, before int64) (names []string, err error) {
	rows, err := s.db.Query(ctx, oldServers, after, before, upkeep.Batch)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, rows.Err()
}
