package storage

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"weft/internal/sqldb"
)

// size is what a table takes: rows, and the bytes of its pages in the file.
type size struct{ rows, data, index int64 }

func (s size) total() int64 { return s.data + s.index }

// sizes are those of all tables.
type sizes map[string]size

func (s sizes) total() (n int64) {
	for _, t := range s {
		n += t.total()
	}
	return n
}

const (
	sqliteSizesSQL = `SELECT m.tbl_name, m.type = 'index' AND m.sql IS NOT NULL OR m.name LIKE 'sqlite_autoindex%', SUM(d.pgsize)
		FROM dbstat d JOIN sqlite_master m ON m.name = d.name WHERE d.aggregate = TRUE GROUP BY 1, 2`
	sqliteTablesSQL   = `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`
	postgresSizesSQL  = `SELECT c.relname, pg_table_size(c.oid), pg_indexes_size(c.oid) FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace`
	sqliteFreeSQL     = `SELECT freelist_count * page_size FROM pragma_freelist_count(), pragma_page_size()`
	postgresTablesSQL = `SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace`
)

// measure reads the size of each table.
func measure(t testing.TB, db *sqldb.DB) sizes {
	t.Helper()
	ctx, out := t.Context(), make(sizes)
	if db.Dialect() == sqldb.Postgres {
		vacuum(t, db)
	}
	tables, list := sqliteTablesSQL, sqliteSizesSQL
	if db.Dialect() == sqldb.Postgres {
		tables, list = postgresTablesSQL, postgresSizesSQL
	}
	var names []string
	query(t, db, tables, func(scan func(...any) error) error {
		var name string
		err := scan(&name)
		names = append(names, name)
		return err
	})
	for _, name := range names {
		var s size
		if err := db.QueryRow(ctx, `SELECT COUNT(*) FROM "`+name+`"`).Scan(&s.rows); err != nil {
			t.Fatal(err)
		}
		out[name] = s
	}
	query(t, db, list, func(scan func(...any) error) error {
		var name string
		var a, b int64
		if err := scan(&name, &a, &b); err != nil {
			return err
		}
		s, ok := out[name]
		switch {
		case !ok:
			return nil
		case db.Dialect() == sqldb.Postgres:
			s.data, s.index = a, b
		case a != 0:
			s.index += b
		default:
			s.data += b
		}
		out[name] = s
		return nil
	})
	return out
}

// vacuum takes dead rows out of Postgres' tables, which its autovacuum does once a minute: a load of
// seconds would be measured before it came. In a small load what dead rows leave behind in the indexes would
// outweigh the living, so the tables are written anew.
func vacuum(t testing.TB, db *sqldb.DB) {
	t.Helper()
	how := `VACUUM FULL`
	if *fullScale {
		how = `VACUUM`
	}
	// Not a transaction: a read whose result is empty.
	rows, err := db.Query(t.Context(), how)
	if err != nil {
		t.Fatal(err)
	}
	if err := rows.Close(); err != nil {
		t.Fatal(err)
	}
}

func query(t testing.TB, db *sqldb.DB, q string, fn func(scan func(...any) error) error) {
	t.Helper()
	rows, err := db.Query(context.WithoutCancel(t.Context()), q)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close() //nolint:errcheck // read to its end
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

// phase is one part of the load and what it added.
type phase struct {
	name          string
	n             int // events of the kind that is measured
	before, after sizes
}

// each is the bytes that a table grew by, for one event of the phase.
func (p phase) each(table string) float64 {
	return float64(p.after[table].total()-p.before[table].total()) / float64(max(p.n, 1))
}

func (p phase) eachTotal() float64 {
	return float64(p.after.total()-p.before.total()) / float64(max(p.n, 1))
}

// table prints sizes, the largest tables first, and what each phase added to them for each of
// its events.
func table(now sizes, phases []phase) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-22s %9s %12s %12s", "table", "rows", "data", "indexes")
	for _, p := range phases {
		fmt.Fprintf(&b, " %14s", p.name)
	}
	b.WriteByte('\n')
	names := slices.SortedFunc(maps.Keys(now), func(x, y string) int {
		return cmp.Or(cmp.Compare(now[y].total(), now[x].total()), cmp.Compare(x, y))
	})
	line := func(name string, s size, each func(phase) float64) {
		fmt.Fprintf(&b, "%-22s %9d %12d %12d", name, s.rows, s.data, s.index)
		for _, p := range phases {
			fmt.Fprintf(&b, " %14.1f", each(p))
		}
		b.WriteByte('\n')
	}
	var sum size
	for _, name := range names {
		s := now[name]
		sum.rows, sum.data, sum.index = sum.rows+s.rows, sum.data+s.data, sum.index+s.index
		line(name, s, func(p phase) float64 { return p.each(name) })
	}
	line("all", sum, phase.eachTotal)
	return b.String()
}
