package cluster

import (
	"math"
	"testing"
	"time"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

func TestLook(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		db, ctx := open(), t.Context()
		if err := Migrate(ctx, db); err != nil {
			t.Fatal(err)
		}
		join := func(version string) *Cluster {
			c, err := Join(ctx, Config{DB: db, Components: []string{"roomserver", "syncapi"}, Version: version,
				Beat: 10 * time.Millisecond, LeaseTime: 10 * time.Second, DeadAfter: 20 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		live, dead := join("live"), join("dead")
		go live.Run(ctx) //nolint:errcheck // always nil
		list, err := Look(ctx, db, 300*time.Millisecond)
		if err != nil || len(list) != 2 {
			t.Fatalf("%d nodes, %v", len(list), err)
		}
		for _, n := range list {
			want := Seen{Live: n.ID == live.Self().ID}
			if want.Live {
				want.Share = 1
			}
			if n.Live != want.Live || math.Abs(n.Share-want.Share) > 0.001 || n.ID == dead.Self().ID && n.Version != "dead" {
				t.Errorf("%+v", n)
			}
		}
	})
}
