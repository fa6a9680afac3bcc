package dbcopy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"weft/internal/sqldb"
)

const (
	batchRows  = 512
	batchBytes = 4 << 20
	markTable  = "database_copy" // exists in the target from the beginning of a copy to its end
)

// Table is what was copied of a table.
type Table struct {
	Name string
	Rows int64
	Hash uint64 // of all rows, in whatever order
}

// ErrNotEmpty says that the target holds data already.
var ErrNotEmpty = errors.New("the target database is not empty")

// ErrUnfinished says that a copy into the database did not end.
var ErrUnfinished = errors.New("a copy into this database did not end; empty the database and copy again")

// Unfinished tells whether a copy into a database was begun and did not end.
func Unfinished(ctx context.Context, db *sqldb.DB) (bool, error) {
	names, err := tables(ctx, db)
	return slices.Contains(names, markTable), err
}

// Options say how to copy.
type Options struct {
	// Skip names the tables that belong to the program and not to its data.
	Skip func(table string) bool
	// Telling are the tables that must be empty in the target. What a program that was never used has put into the others
	// is replaced.
	Telling []string
	// Progress is called after each table.
	Progress func(Table)
}

// Copy copies every table of a database. A table that only one side has is an error unless it is skipped.
func Copy(ctx context.Context, from, to *sqldb.DB, o Options) ([]Table, error) {
	if unfinished, err := Unfinished(ctx, to); err != nil || unfinished {
		return nil, errors.Join(err, ErrUnfinished)
	}
	plan, err := makePlan(ctx, from, to, o.Skip)
	if err != nil {
		return nil, err
	}
	for _, name := range o.Telling {
		var n int
		if err := to.QueryRow(ctx, "SELECT COUNT(*) FROM (SELECT 1 FROM "+quote(name)+" LIMIT 1) AS t").Scan(&n); err != nil {
			return nil, fmt.Errorf("table %s: %w", name, err)
		}
		if n > 0 {
			return nil, fmt.Errorf("%w: table %s", ErrNotEmpty, name)
		}
	}
	if _, err := to.Exec(ctx, "CREATE TABLE "+markTable+" (begun BIGINT NOT NULL)"); err != nil {
		return nil, fmt.Errorf("marking the target: %w", err)
	}
	var done []Table
	err = from.View(ctx, func(tx *sqldb.Tx) error {
		for _, t := range plan {
			if _, err := to.Exec(ctx, "DELETE FROM "+quote(t.name)); err != nil {
				return fmt.Errorf("emptying table %s: %w", t.name, err)
			}
			copied, err := t.copy(ctx, tx, to)
			if err != nil {
				return fmt.Errorf("table %s: %w", t.name, err)
			}
			there, err := t.look(ctx, to)
			if err != nil {
				return fmt.Errorf("reading table %s back: %w", t.name, err)
			}
			if there != copied {
				return fmt.Errorf("table %s: %d rows with hash %x were read, %d with %x are in the target", t.name,
					copied.Rows, copied.Hash, there.Rows, there.Hash)
			}
			done = append(done, copied)
			o.Progress(copied)
		}
		return nil
	})
	if err != nil {
		return done, err
	}
	if err := setSequences(ctx, to, plan); err != nil {
		return done, err
	}
	if _, err := to.Exec(ctx, "DROP TABLE "+markTable); err != nil {
		return done, fmt.Errorf("taking the mark from the target: %w", err)
	}
	return done, nil
}

// table is what is to be copied.
type table struct {
	name    string
	columns []column
}

// column is a column of the target.
type column struct {
	name   string
	kind   kind
	serial bool // its values come from a sequence
}

// kind is what values of a column are.
type kind int

const (
	kindText kind = iota
	kindInt
	kindFloat
	kindBytes
	kindBool
)

func makePlan(ctx context.Context, from, to *sqldb.DB, skip func(string) bool) ([]table, error) {
	ours, err := tables(ctx, from)
	if err != nil {
		return nil, err
	}
	theirs, err := tables(ctx, to)
	if err != nil {
		return nil, err
	}
	ours, theirs = slices.DeleteFunc(ours, skip), slices.DeleteFunc(theirs, skip)
	if !slices.Equal(ours, theirs) {
		return nil, fmt.Errorf("the databases do not have the same tables: %v and %v", ours, theirs)
	}
	var plan []table
	for _, name := range ours {
		t := table{name: name}
		if t.columns, err = columns(ctx, to, name); err != nil {
			return nil, err
		}
		own, err := columns(ctx, from, name)
		if err != nil {
			return nil, err
		}
		if !slices.EqualFunc(t.columns, own, func(a, b column) bool { return a.name == b.name }) {
			return nil, fmt.Errorf("table %s does not have the same columns on both sides", name)
		}
		plan = append(plan, t)
	}
	return plan, nil
}

// tables lists the tables of a database by name.
func tables(ctx context.Context, db *sqldb.DB) (names []string, err error) {
	q := `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY table_name`
	if db.Dialect() == sqldb.SQLite {
		q = `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name`
	}
	err = each(ctx, db, q, nil, func(scan func(...any) error) error {
		var name string
		err := scan(&name)
		names = append(names, name)
		return err
	})
	slices.Sort(names) // collations differ
	return names, err
}

// columns lists the columns of a table by name.
func columns(ctx context.Context, db *sqldb.DB, name string) (list []column, err error) {
	q := `SELECT column_name, data_type, COALESCE(column_default, '') FROM information_schema.columns
		WHERE table_schema = current_schema() AND table_name = $1`
	if db.Dialect() == sqldb.SQLite {
		q = `SELECT name, type, '' FROM pragma_table_info($1)`
	}
	err = each(ctx, db, q, []any{name}, func(scan func(...any) error) error {
		var c column
		var typ, def string
		if err := scan(&c.name, &typ, &def); err != nil {
			return err
		}
		c.serial = strings.HasPrefix(def, "nextval(")
		switch typ = strings.ToLower(typ); {
		case strings.Contains(typ, "int") || strings.Contains(typ, "serial"):
			c.kind = kindInt
		case typ == "bytea" || typ == "blob":
			c.kind = kindBytes
		case typ == "boolean":
			c.kind = kindBool
		case strings.HasPrefix(typ, "double") || typ == "real":
			c.kind = kindFloat
		case typ == "text" || strings.HasPrefix(typ, "character"):
			c.kind = kindText
		default:
			return fmt.Errorf("column %s.%s is of the unknown type %s", name, c.name, typ)
		}
		list = append(list, c)
		return nil
	})
	slices.SortFunc(list, func(a, b column) int { return strings.Compare(a.name, b.name) })
	return list, err
}

func each(ctx context.Context, q sqldb.Querier, query string, args []any, fn func(scan func(...any) error) error) (err error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// quote makes a name one that may be a word of SQL too.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func (t *table) names() string {
	var names []string
	for _, c := range t.columns {
		names = append(names, quote(c.name))
	}
	return strings.Join(names, ", ")
}

// scan reads a row into values of the columns' kinds.
func (t *table) scan(scan func(...any) error) ([]any, error) {
	raw, into := make([]any, len(t.columns)), make([]any, len(t.columns))
	for i := range raw {
		into[i] = &raw[i]
	}
	if err := scan(into...); err != nil {
		return nil, err
	}
	for i, c := range t.columns {
		v, err := c.convert(raw[i])
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", c.name, err)
		}
		raw[i] = v
	}
	return raw, nil
}

// convert gives a value the type of its column: SQLite keeps what was put in.
func (c column) convert(v any) (any, error) {
	switch x := v.(type) {
	case nil:
		return nil, nil
	case []byte:
		switch c.kind {
		case kindBytes:
			return append([]byte{}, x...), nil // never nil, which would be NULL
		case kindText:
			return string(x), nil
		}
	case string:
		switch c.kind {
		case kindText:
			return x, nil
		case kindBytes:
			return []byte(x), nil
		}
	case int64:
		switch c.kind {
		case kindInt:
			return x, nil
		case kindBool:
			return x != 0, nil
		case kindFloat:
			return float64(x), nil
		}
	case float64:
		if c.kind == kindFloat {
			return x, nil
		}
	case bool:
		switch c.kind {
		case kindBool:
			return x, nil
		case kindInt:
			if x {
				return int64(1), nil
			}
			return int64(0), nil
		}
	}
	return nil, fmt.Errorf("a value of type %T does not fit", v)
}

// sum is the hash of a row.
func sum(row []any) uint64 {
	var d xxhash.Digest
	d.Reset()
	var buf []byte
	for _, v := range row {
		switch x := v.(type) {
		case nil:
			buf = append(buf[:0], 0)
		case []byte:
			buf = append(append(buf[:0], 1), x...)
		case string:
			buf = append(append(buf[:0], 2), x...)
		case int64:
			buf = fmt.Appendf(buf[:0], "\x03%d", x)
		case float64:
			buf = fmt.Appendf(buf[:0], "\x04%x", math.Float64bits(x))
		case bool:
			buf = fmt.Appendf(buf[:0], "\x05%t", x)
		}
		buf = fmt.Appendf(buf, "\x00%d", len(buf)) // so that values do not run into each other
		_, _ = d.Write(buf)                        // never fails
	}
	return d.Sum64()
}

func size(row []any) (n int) {
	for _, v := range row {
		switch x := v.(type) {
		case []byte:
			n += len(x)
		case string:
			n += len(x)
		default:
			n += 8
		}
	}
	return n
}

// copy copies the rows, batch by batch, and says what they were.
func (t *table) copy(ctx context.Context, from sqldb.Querier, to *sqldb.DB) (Table, error) {
	done := Table{Name: t.name}
	var batch [][]any
	bytes := 0
	flush := func() error {
		err := to.Update(ctx, func(tx *sqldb.Tx) error {
			return sqldb.Insert(ctx, tx, "INSERT INTO "+quote(t.name)+" ("+t.names()+") VALUES ", batch, "")
		})
		batch, bytes = batch[:0], 0
		return err
	}
	err := each(ctx, from, "SELECT "+t.names()+" FROM "+quote(t.name), nil, func(scan func(...any) error) error {
		row, err := t.scan(scan)
		if err != nil {
			return err
		}
		done.Rows++
		done.Hash += sum(row)
		batch, bytes = append(batch, row), bytes+size(row)
		if len(batch) < batchRows && bytes < batchBytes {
			return nil
		}
		return flush()
	})
	if err == nil && len(batch) > 0 {
		err = flush()
	}
	return done, err
}

// look reads what is there.
func (t *table) look(ctx context.Context, db *sqldb.DB) (Table, error) {
	there := Table{Name: t.name}
	err := each(ctx, db, "SELECT "+t.names()+" FROM "+quote(t.name), nil, func(scan func(...any) error) error {
		row, err := t.scan(scan)
		if err == nil {
			there.Rows++
			there.Hash += sum(row)
		}
		return err
	})
	return there, err
}

// setSequences makes the target's sequences go on behind the rows that were copied.
func setSequences(ctx context.Context, to *sqldb.DB, plan []table) error {
	for _, t := range plan {
		for _, c := range t.columns {
			if !c.serial {
				continue
			}
			q := fmt.Sprintf("SELECT setval(pg_get_serial_sequence('%s', '%s'), (SELECT COALESCE(MAX(%s), 0) FROM %s) + 1, false)", quote(t.name), c.name,
				quote(c.name), quote(t.name))
			var next int64
			if err := to.QueryRow(ctx, q).Scan(&next); err != nil {
				return fmt.Errorf("sequence of %s.%s: %w", t.name, c.name, err)
			}
		}
	}
	return nil
}
