package setup

import (
	"context"
	"testing"
	"time"

	"weft/internal/sqldb/sqldbtest"
)

// Behind a translation of addresses the others must hear of the address that leads here, not of the one that is listened on.
func TestBusAddressIsTheAdvertisedOne(t *testing.T) {
	const advertised = "bus.test:4222"
	url := sqldbtest.PostgresURL(t)
	var servers []*Server
	for _, advertise := range []string{advertised, ""} {
		c := testConfig(t, "spread.test")
		c.Database, c.Cluster.Advertise, c.ShutdownDelay = url, advertise, 0
		c.Cluster.Heartbeat, c.Cluster.DeadAfter = Duration(50*time.Millisecond), Duration(5*time.Second)
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		s, err := Run(ctx, c, RunOptions{Log: quiet().Logger, Version: "test"})
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, s)
		t.Cleanup(func() {
			cancel()
			if err := s.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	first := servers[0].cluster.Self().ID
	until(t, "the second to hear where the first is", func() bool {
		for _, n := range servers[1].cluster.Nodes() {
			if n.ID == first && n.Address != "" {
				if n.Address != advertised {
					t.Fatalf("the second was told %s", n.Address)
				}
				return true
			}
		}
		return false
	})
}
