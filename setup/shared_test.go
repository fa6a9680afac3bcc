package setup

import (
	"context"
	"strings"
	"testing"
	"time"

	"weft/internal/cluster"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// Programs of two releases run on one database while a cluster is upgraded: the older one starts with what the newer one has noted, and
// what it notes itself forgets nothing of that.
func TestOptionsOfANewerProgram(t *testing.T) {
	c := testConfig(t, "newer.test")
	c.Database = sqldbtest.PostgresURL(t)
	c.TURN.Username = "ours"
	_, stop := boot(t, c)
	stop()
	db := sqldbtest.Open(t, c.Database)
	noted := func() string {
		t.Helper()
		said, err := cluster.Setting(t.Context(), db, settingConfig, func() ([]byte, error) { return nil, errNameless })
		if err != nil {
			t.Fatal(err)
		}
		return string(said)
	}
	said := strings.Replace(noted(), "turn:\n", "moods:\n    all: [fair, good]\nturn:\n    mood: fair\n", 1)
	if err := cluster.SetSetting(t.Context(), db, settingConfig, []byte(said)); err != nil {
		t.Fatal(err)
	}
	nameless := testConfig(t, "")
	nameless.Database = c.Database
	s, stop := boot(t, nameless)
	if s.cfg.ServerName != "newer.test" || s.cfg.TURN.Username != "ours" {
		t.Errorf("it took %q and %q", s.cfg.ServerName, s.cfg.TURN.Username)
	}
	stop()
	if noted() != said {
		t.Errorf("one that took it all changed it to %s", noted())
	}
	c.TURN.Username = "changed"
	_, stop = boot(t, c)
	stop()
	for _, want := range []string{"mood: fair", "all:", "- good", "username: changed"} {
		if !strings.Contains(noted(), want) {
			t.Errorf("%q is not in %s", want, noted())
		}
	}
}

// Who has so much to do that all connections to the database are in use is not dead, and goes on owning what it owns.
func TestABusyProcessKeepsItsLease(t *testing.T) {
	const conns = 3
	c := testConfig(t, "busy.test")
	c.Database, c.DatabaseConnections = sqldbtest.PostgresURL(t), conns
	c.Cluster.Heartbeat, c.Cluster.DeadAfter = Duration(20*time.Millisecond), Duration(5*time.Second)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := Run(ctx, c, RunOptions{Log: quiet().Logger, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	release, begun := make(chan struct{}), make(chan bool)
	ended := make(chan error, conns)
	for range conns {
		go func() {
			ended <- s.db.View(ctx, func(*sqldb.Tx) error {
				begun <- true
				<-release
				return nil
			})
		}()
		<-begun
	}
	db := sqldbtest.Open(t, c.Database)
	beat := func() (n int64) {
		if err := db.QueryRow(t.Context(), `SELECT beat FROM cluster_nodes WHERE id = $1`, s.cluster.Self().ID).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	first := beat()
	until(t, "ten heartbeats", func() bool { return beat() >= first+10 })
	close(release)
	for range conns {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
}
