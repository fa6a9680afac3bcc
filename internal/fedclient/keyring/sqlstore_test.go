package keyring

import (
	"context"
	"reflect"
	"testing"
	"time"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/matrix/id"
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

func TestSQLStoreForgetsServersThatAreGone(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		ctx, db := context.Background(), open()
		store, err := NewSQLStore(ctx, db)
		if err != nil {
			t.Fatal(err)
		}
		now := time.UnixMilli(1_700_000_000_000)
		for name, fetched := range map[id.Server]time.Time{"gone.example": now.Add(-100 * time.Hour), "here.example": now} {
			r := newRemote(t, name)
			r.validUntil = fetched.Add(time.Hour)
			sk, err := Parse(r.object(), name, fetched)
			if err != nil {
				t.Fatal(err)
			}
			if err := store.Save(ctx, sk); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := store.DeleteOld(ctx, now.Add(-10*time.Hour).UnixMilli()); n != 1 || err != nil {
			t.Errorf("%d forgotten (%v), want 1", n, err)
		}
		for name, want := range map[id.Server]bool{"gone.example": false, "here.example": true} {
			if sk, err := store.Load(ctx, name); err != nil || (sk != nil) != want {
				t.Errorf("%s: %v (%v)", name, sk, err)
			}
		}
		var keys int
		if err := db.QueryRow(ctx, `SELECT COUNT(*) FROM fedclient_keys`).Scan(&keys); err != nil || keys != 1 {
			t.Errorf("%d keys are left (%v)", keys, err)
		}
	})
}
