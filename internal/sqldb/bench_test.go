package sqldb_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// The benchmarks write one small row per operation. Postgres runs without fsync here, SQLite with.

func eachDialect(b *testing.B, bench func(b *testing.B, db *sqldb.DB)) {
	b.Run("sqlite", func(b *testing.B) {
		db := sqldbtest.Open(b, sqldbtest.SQLiteURL(b))
		table(b, db)
		bench(b, db)
	})
	b.Run("postgres", func(b *testing.B) {
		db := sqldbtest.Open(b, sqldbtest.PostgresURL(b))
		table(b, db)
		bench(b, db)
	})
}

func BenchmarkUpdate(b *testing.B) {
	eachDialect(b, func(b *testing.B, db *sqldb.DB) {
		i := 0
		for b.Loop() {
			i++
			if err := db.Update(b.Context(), func(tx *sqldb.Tx) error {
				_, err := tx.Exec(b.Context(), insert, i, "value")
				return err
			}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benchConcurrent(b *testing.B, update func(ctx context.Context, fn func(tx *sqldb.Tx) error) error) {
	const writers = 64
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				if err := update(context.Background(), func(tx *sqldb.Tx) error {
					_, err := tx.Exec(context.Background(), insert, i, "value")
					return err
				}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkUpdate64(b *testing.B) {
	eachDialect(b, func(b *testing.B, db *sqldb.DB) { benchConcurrent(b, db.Update) })
}

func BenchmarkGroupUpdate64(b *testing.B) {
	eachDialect(b, func(b *testing.B, db *sqldb.DB) { benchConcurrent(b, db.Group("g").Update) })
}

func BenchmarkPointRead(b *testing.B) {
	eachDialect(b, func(b *testing.B, db *sqldb.DB) {
		for i := range 1000 {
			exec(b, db, insert, i, "value")
		}
		for _, mode := range []string{"background", "cancellable"} {
			b.Run(mode, func(b *testing.B) {
				ctx := context.Background()
				if mode == "cancellable" {
					ctx = b.Context()
				}
				i := 0
				for b.Loop() {
					i++
					var v string
					if err := db.QueryRow(ctx, `SELECT v FROM kv WHERE k = $1`, i%1000).Scan(&v); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		b.Run("view", func(b *testing.B) {
			i := 0
			for b.Loop() {
				i++
				if err := db.View(b.Context(), func(tx *sqldb.Tx) error {
					var v string
					return tx.QueryRow(b.Context(), `SELECT v FROM kv WHERE k = $1`, i%1000).Scan(&v)
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}
