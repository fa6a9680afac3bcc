package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"weft/internal/sqldb/pgtest"
	"weft/internal/sqldb/sqldbtest"
	"weft/setup"
	"weft/test/bench/proc"
	"weft/test/bench/remote"
	"weft/test/bench/report"
	"weft/test/bench/scenario"
)

// boot runs a server in this process until the test ends.
func boot(t *testing.T, name, database string, edit func(*setup.Config)) (s *setup.Server, folder string) {
	t.Helper()
	c := setup.Default()
	c.ServerName, c.DataDir, c.Database = name, t.TempDir(), database
	c.Listeners = []setup.Listener{{Address: "127.0.0.1:0"}}
	c.AdminListen = "127.0.0.1:0"
	c.Registration.Mode = "open"
	c.RateLimits.Enabled = false
	c.Memory = 256 << 20
	edit(&c)
	log := logrus.New()
	log.SetOutput(io.Discard)
	ctx, cancel := context.WithCancel(context.Background())
	s, err := setup.Run(ctx, c, setup.RunOptions{Log: log, Version: "test", Verify: true})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := s.Wait(); err != nil {
			t.Errorf("%s stopped with %v", name, err)
		}
	})
	return s, c.DataDir
}

// tinySizes make every scenario do a little of everything.
func tinySizes() scenario.Sizes {
	return scenario.Sizes{
		Senders: 3, Rooms: 2, Messages: 30, ContentBytes: 300, LatencyMessages: 5,
		FewRooms: 3, ManyRooms: 5, InitialSyncs: 2, EmptySyncs: 8, OneSyncs: 20,
		CreateRooms: 4, JoinRooms: 2, JoinUsers: 3, FanoutUsers: 5, FanoutMessages: 2, HistoryMessages: 250, HistoryReaders: 2,
		KeyUsers: 4, MediaFiles: 4, MediaBytes: 5000, OverloadRequests: 40,
		RemoteMembers: 20, RemoteMany: 40, RemoteEvents: 70, RemoteMessages: 5,
		ScaleRooms: 5, ScaleUsers: 4, ScaleRequests: 12, Idle: 10 * time.Millisecond, ScaleTime: 200 * time.Millisecond,
	}
}

// Every scenario, on both databases at once: the servers are right, so there are no errors, and all that is counted is there.
func TestEveryScenario(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		database := newURL()
		ca := t.TempDir()
		authority, err := remote.OpenAuthority(ca)
		if err != nil {
			t.Fatal(err)
		}
		cert, key, err := authority.WriteCertificate(ca, "bench", "bench.test")
		if err != nil {
			t.Fatal(err)
		}
		s, folder := boot(t, "bench.test", database, func(c *setup.Config) {
			c.Listeners = append(c.Listeners, setup.Listener{Address: "127.0.0.1:0", TLS: setup.TLS{Certificate: cert, Key: key}})
			c.Federation.CAFile, c.Federation.AllowPrivateAddresses = authority.File, true
		})
		target := fmt.Sprintf("name=weft,url=%s,pid=%d,server-name=bench.test,federation=%s", s.URLs()[0], os.Getpid(), strings.TrimPrefix(s.URLs()[1], "https://"))
		if strings.HasPrefix(database, "sqlite:") {
			target += ",disk=" + strings.TrimPrefix(database, "sqlite:")
		} else {
			target += ",db=" + database
		}
		doc, out, err := bench(t, options{targets: []string{target}, rounds: 1, sizes: tinySizes(), authorityFolder: ca, servers: 2})
		if err != nil {
			t.Fatalf("%v (data in %s)\n%s", err, folder, out)
		}
		counts := make(map[string]int)
		for _, r := range doc.Rows {
			counts[r.Operation] = r.Count
			if r.Errors > 0 {
				t.Errorf("%s: %d errors: %v", r.Operation, r.Errors, r.Failures)
			}
			if r.Operation == "send" && (r.DiskPerEvent == nil || *r.DiskPerEvent < 0) {
				t.Errorf("send measured no disk: %v", r.DiskPerEvent)
			}
		}
		for operation, want := range map[string]int{
			"idle": 1, "send": 30, "latency": 5, "sync-initial-3": 2, "sync-empty-3": 8, "sync-one-3": 20, "sync-initial-5": 1,
			"sync-empty-5": 8, "sync-one-5": 20, "create-room": 4, "join": 6, "leave": 6, "fanout": 2, "fanout-wait": 10,
			"keys-upload": 20, "keys-query": 40, "todevice-send": 40, "media-upload": 4, "media-download": 4, "overload": 40, "idle-after": 1,
			"remote-join-20-v10": 1, "remote-join-20-v11": 1, "remote-join-20-v12": 1, "inflow-linear": 70, "inflow-branchy": 70, "outflow": 5, "join-large": 30,
		} {
			if counts[operation] != want {
				t.Errorf("%s: %d operations, not %d", operation, counts[operation], want)
			}
		}
	})
}

// bench runs the driver and reads the JSON that it writes.
func bench(t *testing.T, o options) (doc report.Document, out string, err error) {
	t.Helper()
	var table, log bytes.Buffer
	o.out, o.log, o.jsonFile, o.tableFile = &table, &log, filepath.Join(t.TempDir(), "out.json"), filepath.Join(t.TempDir(), "out.md")
	o.database = cmp.Or(o.database, "sqlite")
	err = run(t.Context(), o)
	data, readErr := os.ReadFile(o.jsonFile)
	if readErr != nil {
		return doc, table.String() + log.String(), errors.Join(err, readErr)
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	if markdown, err := os.ReadFile(o.tableFile); err != nil || !bytes.Contains(markdown, []byte("| operation |")) {
		t.Errorf("no Markdown: %v\n%s", err, markdown)
	}
	return doc, table.String() + log.String(), err
}

// Two servers are compared, accounts can be made with the shared secret, and a server that refuses for want of room is obeyed.
func TestTwoTargetsAndASmallServer(t *testing.T) {
	big, _ := boot(t, "big.test", "", func(*setup.Config) {})
	small, _ := boot(t, "small.test", "", func(c *setup.Config) {
		c.Registration = setup.Registration{Mode: "closed", SharedSecret: "opensesame"}
		c.MaxRequests = 8
	})
	doc, out, err := bench(t, options{rounds: 2, sizes: tinySizes(), scenarios: []string{"overload"}, targets: []string{
		"name=big,url=" + big.URLs()[0], "secret=opensesame,name=small,url=" + small.URLs()[0]}})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(doc.Rows) != 2 || len(doc.Ratios) != 1 || doc.Ratios[0].Target != "small" || doc.Ratios[0].P50 == nil {
		t.Fatalf("%+v", doc)
	}
	if got := doc.Rows[1]; got.Shed == 0 || got.Count != 80 || len(got.Rounds) != 2 || got.Errors != 0 || got.CPU != nil {
		t.Errorf("the small server: %+v", got)
	}
}

// A target whose federation nobody knows is left out where it takes part, and the report says so.
func TestScenariosThatATargetLacks(t *testing.T) {
	s, _ := boot(t, "lone.test", "", func(*setup.Config) {})
	doc, out, err := bench(t, options{rounds: 1, sizes: tinySizes(), scenarios: []string{"remote-join-v12", "idle"}, servers: 1,
		targets: []string{"name=lone,url=" + s.URLs()[0]}})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(doc.Skipped) != 1 || doc.Skipped[0].Scenario != "remote-join-v12" || len(doc.Rows) != 1 || !strings.Contains(out, "was not measured in remote-join-v12") {
		t.Errorf("%+v\n%s", doc, out)
	}
}

// Profiles are taken of each window.
func TestProfiles(t *testing.T) {
	s, _ := boot(t, "p.test", "", func(*setup.Config) {})
	dir := t.TempDir()
	_, out, err := bench(t, options{rounds: 1, sizes: tinySizes(), scenarios: []string{"create-room"}, profileDir: dir,
		targets: []string{"name=p,url=" + s.URLs()[0] + ",admin=" + s.AdminURL()}})
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, pattern := range []string{"p-create-room.cpu*", "p-create-room.allocs*", "p-create-room.heap"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(found) != 1 {
			t.Errorf("%s: %v %v", pattern, found, err)
		}
	}
}

func TestFailuresEndTheRun(t *testing.T) {
	for _, c := range []struct {
		o    options
		want string
	}{
		{options{rounds: 1, sizes: tinySizes()}, "nothing to measure"},
		{options{rounds: 1, scenarios: []string{"jump"}, sizes: tinySizes()}, `no scenario "jump"`},
		{options{rounds: 1}, "Senders must be at least 1"},
		{options{targets: []string{"name=x"}, rounds: 1, sizes: tinySizes()}, "url is missing"},
		{options{targets: []string{"url=http://127.0.0.1:1"}, rounds: 1, scenarios: []string{"send"}, sizes: tinySizes()}, errChecks.Error()},
		{options{wefts: []string{"/nowhere/weft"}, rounds: 1, sizes: tinySizes()}, "no such file"},
	} {
		if _, out, err := bench(t, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v instead of %q\n%s", err, c.want, out)
		}
	}
}

// Processes on one database are one target, each in its own cgroup; what was sent is there, and syncs bring it.
func TestSeveralNodes(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("needs the go command: %v", err)
	}
	g, err := proc.NewCgroup("", fmt.Sprintf("weft-bench-test-%d", os.Getpid()), proc.Limits{CPUs: 0.5})
	if errors.Is(err, proc.ErrUnavailable) || errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS) {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	if err := errors.Join(err, g.Remove()); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "weft")
	if out, err := exec.Command("go", "build", "-o", binary, "weft/cmd/weft").CombinedOutput(); err != nil {
		t.Fatalf("building the server: %v\n%s", err, out)
	}
	doc, out, err := bench(t, options{wefts: []string{binary}, nodes: []int{1, 2}, database: "postgres", cpus: 0.5, rounds: 1, sizes: tinySizes(),
		scenarios: []string{"idle", "scale"}})
	if errors.Is(err, pgtest.ErrMissing) {
		t.Skipf("needs PostgreSQL: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(doc.Targets) != 2 || len(doc.Rows) != 8 || len(doc.Ratios) != 4 {
		t.Fatalf("%d targets, %d rows, %d ratios\n%s", len(doc.Targets), len(doc.Rows), len(doc.Ratios), out)
	}
	for _, r := range doc.Rows {
		if r.Errors > 0 || r.Operation != "idle" && r.Count < tinySizes().ScaleRequests {
			t.Errorf("%s %s: %d, %d errors: %v", r.Target, r.Operation, r.Count, r.Errors, r.Failures)
		}
	}
	for _, x := range doc.Targets {
		if x.Usage == nil {
			t.Errorf("%s had no cgroup", x.Name)
		}
	}
}
