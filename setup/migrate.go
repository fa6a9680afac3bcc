package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"weft/internal/dbcopy"
	"weft/internal/sqldb"
)

// MigrateDatabase moves all that a server has from SQLite to PostgreSQL, where several processes can share it: tables,
// media, the signing key, and for further processes its name and settings. No process may use the SQLite file meanwhile, and none
// can afterwards. What goes wrong leaves the SQLite file as it was, and a target that is not taken for a whole one.
func MigrateDatabase(ctx context.Context, c Config, from, to string, say func(format string, args ...any)) (err error) {
	path, isFile := strings.CutPrefix(from, "sqlite:")
	if !isFile || !strings.HasPrefix(to, "postgres") {
		return errors.New("a server is moved from sqlite:PATH to postgres://…")
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("there is no SQLite database to move: %w", err)
	}
	c.Components, c.Database = componentNames(), from
	if _, err := os.Stat(c.signingKeyPath()); err != nil {
		return fmt.Errorf("there is no signing key to move (--data says where the server keeps it): %w", err)
	}
	if err := sqldb.CheckUnused(ctx, from); err != nil {
		return err
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	o := RunOptions{Log: log}
	old, err := build(ctx, c, o, false)
	if err != nil {
		return fmt.Errorf("the old database: %w", err)
	}
	defer func() { err = errors.Join(err, old.close()) }()
	c.Database = to
	fresh, err := build(ctx, c, o, false)
	if err != nil {
		return fmt.Errorf("the new database: %w", err)
	}
	defer func() { err = errors.Join(err, fresh.close()) }()

	began := time.Now()
	var rows int64
	if _, err := dbcopy.Copy(ctx, old.db, fresh.db, dbcopy.Options{
		Skip: notData, Telling: []string{"accounts", "rooms", "events", "media"},
		Progress: func(t dbcopy.Table) {
			rows += t.Rows
			say("%-24s %10d rows, hash %016x", t.Name, t.Rows, t.Hash)
		},
	}); err != nil {
		return err
	}
	files, size, err := fresh.parts.media.TakeAll(ctx, old.parts.media)
	if err != nil {
		return fmt.Errorf("media: %w", err)
	}
	if err := fresh.noteShared(ctx); err != nil {
		return err
	}
	if err := old.db.MarkMoved(ctx); err != nil {
		return fmt.Errorf("marking the old database: %w", err)
	}
	say("\n%d rows and %d media (%d bytes) are in the new database, counted and hashed on both sides, after %s.", rows, files, size,
		time.Since(began).Round(time.Second))
	return nil
}

// notData tells which tables belong to the program: they are made anew.
func notData(table string) bool {
	return strings.HasPrefix(table, "goose_") || strings.HasPrefix(table, "cluster_") || table == "migration_lock" || table == "schema_needs" || table == "rpc_spilled" ||
		strings.HasPrefix(table, "media_") // bytes, and notes of files: media.TakeAll brings them
}

// checkCopied refuses a database into which a copy did not end.
func (s *Server) checkCopied(ctx context.Context) error {
	if s.db.Dialect() != sqldb.Postgres {
		return nil
	}
	unfinished, err := dbcopy.Unfinished(ctx, s.db)
	if err == nil && unfinished {
		err = dbcopy.ErrUnfinished
	}
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	return nil
}
