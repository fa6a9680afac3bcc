package sqldb

import (
	"database/sql"
	"errors"
)

// Apart gives the database with one connection of its own, for what must not wait for the connections that all others share, and says
// little: statements are short, and on PostgreSQL a server that is silent for 2 s while it is waited for loses the connection,
// however well its machine is. It is counted nowhere, and is closed with db. On SQLite it is db itself: nobody there waits for long.
func (db *DB) Apart() (*DB, error) {
	if db.dialect != Postgres {
		return db, nil
	}
	o := db.opts
	o.MaxConns, o.Older = 1, nil
	cfg := db.config
	cfg.ConnectTimeout = silence
	silent := Options{Now: o.Now}.withDefaults(Postgres) // db says itself that the server is away
	inner, err := newHosts(cfg, silent, impatient{newDialer()})
	if err != nil {
		return nil, err
	}
	c := &connector{Connector: inner, dialect: Postgres, times: db.times}
	pool := sql.OpenDB(c)
	pool.SetMaxOpenConns(1)
	pool.SetConnMaxIdleTime(postgresIdleTime)
	pool.SetConnMaxLifetime(postgresLifetime)
	own := &DB{dialect: Postgres, opts: o, write: pool, read: pool, connector: c, config: cfg, times: db.times,
		groups: map[string]*Group{}, known: map[string]int64{}}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil, errors.Join(ErrClosed, pool.Close())
	}
	db.apart = append(db.apart, own)
	return own, nil
}
