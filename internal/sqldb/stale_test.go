package sqldb_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

type askedLongAgo struct{}

// A write that is too late is not committed, and those that share its transaction are.
func TestStaleWrites(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		errStale := errors.New("too late")
		db, err := sqldb.Open(t.Context(), newURL(), sqldb.Options{Stale: func(ctx context.Context) error {
			if ctx.Value(askedLongAgo{}) != nil {
				return errStale
			}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}()
		table(t, db)
		late := context.WithValue(t.Context(), askedLongAgo{}, true)
		for i, update := range []func(context.Context, func(*sqldb.Tx) error) error{db.Update, db.Group("a").Update} {
			var wg sync.WaitGroup
			started := make(chan struct{})
			begin := sync.OnceFunc(func() { close(started) })
			put := func(ctx context.Context, key int, want error) {
				wg.Go(func() {
					err := update(ctx, func(tx *sqldb.Tx) error {
						begin()
						_, err := tx.Exec(ctx, insert, key, "x")
						return err
					})
					if !errors.Is(err, want) {
						t.Errorf("%d: got %v, want %v", key, err, want)
					}
				})
			}
			put(t.Context(), 100*i, nil)
			<-started
			for n := 1; n < 6; n += 2 {
				put(late, 100*i+n, errStale)
				put(t.Context(), 100*i+n+1, nil)
			}
			wg.Wait()
		}
		if got := count(t, db, "1=1"); got != 8 {
			t.Errorf("%d rows, want 8", got)
		}
	})
}
