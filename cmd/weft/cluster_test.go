package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/setup"
)

// beat is how often the processes of the test say that they live: a look takes two and a half beats.
const beat = 300 * time.Millisecond

func TestClusterStatus(t *testing.T) {
	url := sqldbtest.PostgresURL(t)
	t.Setenv("WEFT_CLUSTER_HEARTBEAT", beat.String())
	status := []string{"cluster", "status", "--server-name", "lag.test", "--database", url, "--data", t.TempDir()}
	read := func() (s setup.Status) {
		t.Helper()
		out, err := run(t, "", append(status, "--json")...)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return s
	}
	if s := read(); s.Federation != nil || s.Follower != nil || s.Staged != 0 || len(s.Nodes) != 0 {
		t.Errorf("of a database that no process has used: %+v", s)
	}
	stop := serveOnce(t, url)
	s := read()
	if len(s.Nodes) != 1 || s.Nodes[0].State != "live" || s.Federation == nil || s.Follower == nil || *s.Follower != (setup.FollowerLag{}) {
		t.Errorf("of a process at rest: %+v", s)
	}
	stop()
	makeLag(t, url)
	s = read()
	// Of 5,000 positions the cursor of one shard has 1,000 and the follower 500.
	if f := *s.Federation; f.Positions != 4000 || f.Behind != 3 || f.Failing != 2 || f.EDUs != setup.CountMost {
		t.Errorf("to other servers: %+v", f)
	}
	if f := *s.Follower; f.Positions != 4500 || f.Fewer {
		t.Errorf("for /sync: %+v", f)
	}
	if s.Staged != 7 || s.StagedRooms != 2 || s.StagedMore || s.StagedOldest < 60 || s.StagedOldest > 600 {
		t.Errorf("staged: %+v", s.Lag)
	}
	out, err := run(t, "", status...)
	if err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{"PROCESS", "7 events in 2 rooms wait to be processed, the first for 1m", "4000 positions", "3 servers are behind, 2 of them failed",
		"10000 or more EDUs wait", "4500 positions"} {
		if !strings.Contains(out, words) {
			t.Errorf("%q is not in\n%s", words, out)
		}
	}
}

// serveOnce runs a server until stop is called.
func serveOnce(t *testing.T, url string) (stop func()) {
	t.Helper()
	c := setup.Default()
	c.ServerName, c.Database, c.DataDir, c.AdminListen = "lag.test", url, t.TempDir(), ""
	c.Listeners = []setup.Listener{{Address: "127.0.0.1:0"}}
	c.Log.Level = "error"
	c.Cluster.Heartbeat = setup.Duration(beat)
	ctx, cancel := context.WithCancel(context.Background())
	s, err := setup.Run(ctx, c, setup.RunOptions{Version: "test", Verify: true})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := s.Wait(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// makeLag writes what a server leaves behind that does not keep up.
func makeLag(t *testing.T, url string) {
	t.Helper()
	db := sqldbtest.Open(t, url)
	old := time.Now().Add(-time.Minute).UnixMilli()
	if err := db.Update(t.Context(), func(tx *sqldb.Tx) error {
		for _, q := range []struct {
			text string
			args []any
		}{
			{`INSERT INTO stream_positions (name, pos) VALUES ('events', 5000) ON CONFLICT (name) DO UPDATE SET pos = excluded.pos`, nil},
			{`UPDATE fed_cursor SET pos = CASE WHEN shard = 7 THEN 1000 ELSE 5000 END`, nil},
			{`UPDATE sync_followers SET pos = 500 WHERE name = 'events'`, nil},
			{`INSERT INTO fed_destinations (server, pos, failures, retry_ts, failing_ts) VALUES ('one.test', 1, 1, 0, 1), ('two.test', 1, 9, 0, 1), ('three.test', 1, 0, 0, 0)`, nil},
			{`INSERT INTO fed_edus (server, edu) SELECT 'one.test', CAST('{}' AS BYTEA) FROM generate_series(1, 10100)`, nil},
			{`INSERT INTO inbound_events (seq, received, room_nid, events, origin, data) VALUES
				(1, $1, 1, 3, 'one.test', ''), (2, $2, 1, 3, 'one.test', ''), (3, $2, 2, 1, 'one.test', '')`, []any{old, old + 30_000}},
		} {
			if _, err := tx.Exec(t.Context(), q.text, q.args...); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
