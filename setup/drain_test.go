package setup

import (
	"context"
	"net/http"
	"testing"
	"time"

	"weft/internal/sqldb/sqldbtest"
)

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting for %s", what)
		}
	}
}

// A process that is told to stop says so and goes on answering while others are there, and no longer.
func TestStopWhereOthersTakeOver(t *testing.T) {
	url := sqldbtest.PostgresURL(t)
	var servers []*Server
	var tell []context.CancelFunc
	for range 2 {
		c := testConfig(t, "drain.test")
		c.Database, c.ShutdownDelay = url, Duration(10*time.Minute)
		c.Cluster.Heartbeat, c.Cluster.DeadAfter = Duration(50*time.Millisecond), Duration(5*time.Second)
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		s, err := Run(ctx, c, RunOptions{Log: quiet().Logger, Version: "test"})
		if err != nil {
			t.Fatal(err)
		}
		servers, tell = append(servers, s), append(tell, cancel)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	first, second := servers[0], servers[1]
	until(t, "the first to see the second", func() bool { return otherStays(first.cluster) })
	token := register(t, first.URLs()[0], "alice")
	_, got := call(t, "GET", first.URLs()[0]+"/_matrix/client/v3/sync?set_presence=offline", token, "")
	since := got["next_batch"].(string)
	type answer struct {
		status int
		next   any
	}
	polled := make(chan answer, 1)
	go func() {
		defer close(polled)
		status, got := call(t, "GET", first.URLs()[0]+"/_matrix/client/v3/sync?timeout=300000&set_presence=offline&since="+since, token, "")
		polled <- answer{status, got["next_batch"]}
	}()

	tell[0]()
	until(t, "the first to say that it stops", func() bool {
		status, got := call(t, "GET", first.AdminURL()+"/health", "", "")
		return status == 503 && got["status"] == "stopping"
	})
	if status, _ := call(t, "GET", first.AdminURL()+"/health/live", "", ""); status != 200 {
		t.Errorf("the first lives: %d", status)
	}
	until(t, "the second to see that the first leaves", func() bool { return !otherStays(second.cluster) })
	res, err := http.Get(first.URLs()[0] + "/_matrix/client/versions")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 200 || !res.Close {
		t.Errorf("while the first lingers: %d, close %v", res.StatusCode, res.Close)
	}
	select {
	case <-first.done:
		t.Error("the first did not linger")
	case a := <-polled:
		t.Errorf("the long poll was woken early: %+v", a)
	default:
	}

	tell[1]()
	for i, s := range servers {
		if err := s.Wait(); err != nil {
			t.Errorf("server %d: %v", i, err)
		}
	}
	if a := <-polled; a.status != 200 || a.next == nil {
		t.Errorf("the long poll was answered with %+v", a)
	}
}
