package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"
)

const (
	createNeedsSQL = `CREATE TABLE IF NOT EXISTS schema_needs (oldest BIGINT NOT NULL, component TEXT NOT NULL PRIMARY KEY)`
	readNeedsSQL   = `SELECT component, oldest FROM schema_needs`
	readNeedSQL    = `SELECT oldest FROM schema_needs WHERE component = $1`
	setNeedSQL     = `INSERT INTO schema_needs (component, oldest) VALUES ($1, $2) ON CONFLICT (component) DO UPDATE SET oldest = excluded.oldest`
)

// oldestText is the line of a migration that says which programs can go on with what it makes.
var oldestText = regexp.MustCompile(`(?m)^-- weft: oldest ([0-9]{1,9})[ \t]*$`)

// need reads what the migrations after one version and up to another need: the version up to which a program has to know the schema,
// to be able to use what they make.
func need(fsys fs.FS, list []*goose.Source, after, upTo int64) (oldest int64, err error) {
	for _, source := range list {
		if source.Version <= after || source.Version > upTo {
			continue
		}
		text, err := fs.ReadFile(fsys, source.Path)
		if err != nil {
			return 0, err
		}
		says := source.Version // where it says nothing, an older program is not trusted with it
		if m := oldestText.FindSubmatch(text); m != nil {
			if says, err = strconv.ParseInt(string(m[1]), 10, 64); err != nil {
				return 0, err
			}
		}
		if says < 1 || says > source.Version {
			return 0, fmt.Errorf("%s says that programs of version %d can use it: not 1 to %d", source.Path, says, source.Version)
		}
		oldest = max(oldest, says)
	}
	return oldest, nil
}

// raise notes what the migrations after a version need, before they run. Where others work with the database that know less,
// they are not to run, and nothing is noted. lower takes back what those need that did not run: all after a version.
func (db *DB) raise(ctx context.Context, component string, fsys fs.FS, list []*goose.Source, from int64) (lower func(reached int64) error, err error) {
	oldest, err := need(fsys, list, from, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	was, err := db.needOf(ctx, component)
	if err != nil {
		return nil, err
	}
	note := func(ctx context.Context, oldest int64) error {
		_, err := db.Exec(ctx, setNeedSQL, component, oldest)
		return err
	}
	lower = func(reached int64) error {
		done, err := need(fsys, list, from, reached)
		if err != nil {
			return err
		}
		return note(context.WithoutCancel(ctx), max(was, done))
	}
	if oldest <= was {
		return lower, nil
	}
	// Noted first, then looked: one that starts in between is seen by us or sees what is noted (CheckSchemas).
	if err := note(ctx, oldest); err != nil {
		return nil, err
	}
	if from > 0 && db.opts.Older != nil {
		if err := db.opts.Older(ctx, db, component, oldest); err != nil {
			return nil, errors.Join(err, lower(from))
		}
	}
	return lower, nil
}

// needOf gives up to which version a program must know the schema of a component; 0: nothing is noted.
func (db *DB) needOf(ctx context.Context, component string) (oldest int64, err error) {
	if err = db.QueryRow(ctx, readNeedSQL, component).Scan(&oldest); errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return oldest, err
}

// Schemas tells what this program knows of the schema, as "component:version" for each component that was migrated, by name,
// with commas between them.
func (db *DB) Schemas() string {
	db.mu.Lock()
	defer db.mu.Unlock()
	var list []string
	for _, component := range slices.Sorted(maps.Keys(db.known)) {
		list = append(list, component+":"+strconv.FormatInt(db.known[component], 10))
	}
	return strings.Join(list, ",")
}

// CheckSchemas fails where a newer program has changed the schema since this one looked, so that this one cannot use it any more.
func (db *DB) CheckSchemas(ctx context.Context) error {
	rows, err := db.Query(ctx, readNeedsSQL)
	if err != nil {
		return fmt.Errorf("what the schema needs: %w", err)
	}
	defer rows.Close()
	db.mu.Lock()
	known := maps.Clone(db.known)
	db.mu.Unlock()
	for rows.Next() {
		var component string
		var oldest int64
		if err := rows.Scan(&component, &oldest); err != nil {
			return fmt.Errorf("what the schema needs: %w", err)
		}
		if at, ok := known[component]; ok && at < oldest {
			return tooOld(component, oldest, at)
		}
	}
	return rows.Err()
}

// tooOld says that a program knows too little of a schema.
func tooOld(component string, oldest, known int64) error {
	return fmt.Errorf("the database's schema of %s needs a program that knows it up to version %d, this program knows versions up to %d: "+
		"it was used by a newer program; run that, or restore a backup", component, oldest, known)
}
