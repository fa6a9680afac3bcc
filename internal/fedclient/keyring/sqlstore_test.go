package keyring

import (
	"context"
	"reflect"
	"testing"
	"time"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

func TestSQLStore(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		ctx := context.Background()
		store, err := NewSQLStore(ctx, open())
		if err != nil {
			t.Fatal(err)
		}
		if sk, err := store.Load(ctx, "a.example"); err != nil || sk != nil {
			t.Fatalf("an empty store gave %v, %v", sk, err)
		}
		a := newRemote(t, "a.example")
		now := time.UnixMilli(1_700_000_000_000)
		a.validUntil = now.Add(time.Hour)
		first, err := Parse(a.object(), a.name, now)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Save(ctx, first); err != nil {
			t.Fatal(err)
		}
		loaded, err := store.Load(ctx, "a.example")
		if err != nil || !reflect.DeepEqual(loaded, first) {
			t.Fatalf("loaded %+v, %v; saved %+v", loaded, err, first)
		}

		// The key becomes an old one and another takes its place.
		a.rotate(now.Add(30 * time.Minute))
		second, err := Parse(a.object(), a.name, now.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		merged := merge(loaded, second, true)
		if err := store.Save(ctx, merged); err != nil {
			t.Fatal(err)
		}
		loaded, err = store.Load(ctx, "a.example")
		if err != nil || !reflect.DeepEqual(loaded, merged) {
			t.Fatalf("loaded %+v, %v; saved %+v", loaded, err, merged)
		}
		if len(loaded.Keys) != 2 || loaded.Keys["ed25519:k1"].ExpiredTS == 0 {
			t.Fatalf("the old key is not stored as old: %+v", loaded.Keys)
		}
	})
}
