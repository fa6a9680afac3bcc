package server

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/sqldb/sqldbtest"
	"weft/test/bench/proc"
	"weft/test/bench/remote"
)

// fakeEnv makes the test below a homeserver: its value is the command line of one.
const fakeEnv = "WEFT_BENCH_FAKE"

// TestFakeServer is what the tests below start. It says who it is, and ends when it is told to.
func TestFakeServer(t *testing.T) {
	args, ok := os.LookupEnv(fakeEnv)
	if !ok {
		t.Skip("this is the server that other tests start")
	}
	_, listen, ok := strings.Cut(args, "--listen ")
	if !ok {
		t.Fatalf("no address in %q", args)
	}
	address, _, _ := strings.Cut(listen, " ")
	fmt.Println("started with " + args)
	err := http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/_matrix/client/versions" {
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Fatal(err)
}

// fake writes a program that behaves as a server's binary.
func fake(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "fake")
	script := "#!/bin/sh\n" + fakeEnv + "=\"$*\" exec '" + self + "' -test.run='^TestFakeServer$' -test.v\n"
	if err := os.WriteFile(name, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("/bin/sh"); err != nil {
		t.Skip("needs a shell")
	}
	return name
}

// stop ends a fake server.
func stop(t *testing.T, p *Process) string {
	t.Helper()
	log, err := p.Stop()
	if err != nil {
		t.Errorf("stopped with %v", err)
	}
	if _, err := os.Stat(p.Folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", p.Folder, err)
	}
	return log
}

func TestStartWeft(t *testing.T) {
	authority, err := remote.OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := StartWeft(t.Context(), fake(t), "a", "a.test", "postgres://x", Options{Authority: authority})
	if err != nil {
		t.Fatal(err)
	}
	if p.PID == 0 || p.Cgroup != nil || p.Admin == "" {
		t.Errorf("%+v", p)
	}
	log := stop(t, p)
	for _, want := range []string{"serve --server-name a.test --data " + p.Folder, "--database postgres://x", "--rate-limits=false",
		"--listen-tls " + p.Federation, "--tls-cert " + p.Folder, "--federation-ca " + authority.File} {
		if !strings.Contains(log, want) {
			t.Errorf("the command line lacks %q: %s", want, log)
		}
	}
}

func TestStartCommand(t *testing.T) {
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	// The other program outlives the server, but not the measurement: it holds a pipe open.
	pipe := filepath.Join(t.TempDir(), "pipe")
	if out, err := exec.Command("mkfifo", pipe).CombinedOutput(); err != nil {
		t.Skipf("needs mkfifo: %v %s", err, out)
	}
	line := "(exec cat <" + pipe + ") & exec " + fake(t) + " --listen " + ports[0] + " --x"
	p, err := StartCommand(t.Context(), line, "b", "http://"+ports[0], Options{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(pipe, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		// A signal takes effect when it does.
		var err error
		for deadline := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(deadline); {
			_, err = w.WriteString("x")
		}
		if !errors.Is(err, syscall.EPIPE) {
			t.Errorf("what the server started lives on: %v", err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	if log := stop(t, p); !strings.Contains(log, "--x") {
		t.Errorf("log %s", log)
	}
}

func TestStartInACgroup(t *testing.T) {
	p, err := StartWeft(t.Context(), fake(t), "c", "c.test", "", Options{Limits: proc.Limits{CPUs: 1, Memory: 256 << 20}})
	if errors.Is(err, proc.ErrUnavailable) || errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS) {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	membership, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
	if err != nil || !strings.Contains(string(membership), fmt.Sprintf("/weft-bench-%d-c", os.Getpid())) {
		t.Errorf("not in its group: %s %v", membership, err)
	}
	if u, err := p.Cgroup.Usage(); err != nil || u.PeakMemory == 0 {
		t.Errorf("%+v %v", u, err)
	}
	stop(t, p)
}

func TestServersThatDoNotStart(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"echo out of order; exit 3", "out of order"},
		{"exec /nowhere/server", "ended at once"},
	} {
		p, err := StartCommand(t.Context(), c.line, "d", "http://127.0.0.1:1", Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.line, err)
		}
		if _, err := os.Stat(p.Folder); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s left %s: %v", c.line, p.Folder, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := StartCommand(ctx, "exec cat", "e", "http://127.0.0.1:1", Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
}

func TestSQLiteBytes(t *testing.T) {
	dir := t.TempDir()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "a b.db")+"?_pragma=journal_mode(wal)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(filepath.Join(dir, "media"), make([]byte, 100000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE t (b BLOB)`); err != nil {
		t.Fatal(err)
	}
	before, err := SQLiteBytes(t.Context(), dir)
	if err != nil || before <= 0 || before > 50000 {
		t.Fatalf("%d %v", before, err)
	}
	if _, err := db.ExecContext(t.Context(), `INSERT INTO t VALUES (zeroblob(1000000))`); err != nil {
		t.Fatal(err)
	}
	after, err := SQLiteBytes(t.Context(), filepath.Join(dir, "a b.db"))
	if grown := after - before; err != nil || grown < 990_000 || grown > 1_100_000 {
		t.Errorf("1,000,000 bytes made the database grow by %d, %v", grown, err)
	}
	if _, err := SQLiteBytes(t.Context(), filepath.Join(dir, "none")); err == nil {
		t.Error("there is nothing, and it has a size")
	}
}

func TestPostgresBytes(t *testing.T) {
	if n, err := PostgresBytes(t.Context(), sqldbtest.PostgresURL(t)); err != nil || n < 1<<20 {
		t.Errorf("%d %v", n, err)
	}
	if _, err := PostgresBytes(t.Context(), "sqlite:x"); err == nil {
		t.Error("not PostgreSQL")
	}
}
