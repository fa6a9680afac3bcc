package cluster

import (
	"math"
	"strings"
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

// TestNoneOlder: what a node that lives cannot go on with is refused; what one that is dead could not is not.
func TestNoneOlder(t *testing.T) {
	db, ctx := sqldbtest.Open(t, sqldbtest.PostgresURL(t)), t.Context()
	const look = 300 * time.Millisecond
	if err := NoneOlder(ctx, db, look, "rooms", 9); err != nil {
		t.Errorf("without a table there is nobody: %v", err)
	}
	if err := Migrate(ctx, db); err != nil {
		t.Fatal(err)
	}
	join := func(schemas string) *Cluster {
		c, err := Join(ctx, Config{DB: db, Components: []string{"roomserver"}, Version: "1.2", Schemas: func() string { return schemas },
			Beat: 10 * time.Millisecond, LeaseTime: 10 * time.Second, DeadAfter: 20 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	live := join("cluster:1,rooms:3")
	join("cluster:1,rooms:2") // dies at once
	go live.Run(ctx)          //nolint:errcheck // always nil
	for _, c := range []struct {
		component string
		oldest    int64
		want      string
	}{
		{"rooms", 1, ""}, {"rooms", 3, ""}, {"cluster", 1, ""},
		{"rooms", 4, "process " + live.Self().ID + " (version 1.2) works with the database and knows the schema of rooms up to version 3, where 4 is needed"},
		{"room", 1, ""}, // it has not come that far
	} {
		err := NoneOlder(ctx, db, look, c.component, c.oldest)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s of %d: %v, want %q", c.component, c.oldest, err, c.want)
		}
	}
}
