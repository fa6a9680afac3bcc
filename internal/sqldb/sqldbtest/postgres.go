package sqldbtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/lib/pq" // the driver "postgres"
)

// PostgresURL makes an empty database and returns its URL, which other processes of this machine can use too. It is
// removed at the end of the test. Without PostgreSQL the test is skipped.
//
// It is a schema that the URL selects, because CREATE DATABASE copies 7 MB and takes 0.3 s, CREATE SCHEMA a millisecond.
func PostgresURL(t testing.TB) string {
	t.Helper()
	c := server(t)
	name := fmt.Sprintf("weft_%d", c.count.Add(1))
	if _, err := c.admin.ExecContext(t.Context(), "CREATE SCHEMA "+name); err != nil {
		t.Fatalf("new Postgres database: %v", err)
	}
	t.Cleanup(func() {
		// A transaction of a server that the test killed may still hold locks; the cluster goes away in the end.
		if _, err := c.admin.ExecContext(context.Background(), "DROP SCHEMA "+name+" CASCADE"); err != nil {
			t.Logf("Postgres database %s stays until the end of the tests: %v", name, err)
		}
	})
	return c.url(url.Values{"search_path": {name}})
}

// shared is the one cluster of a test binary: making one takes a second, too long for each test.
var shared struct {
	once    sync.Once
	cluster *cluster
	skip    error // why there is none
	err     error
}

func server(t testing.TB) *cluster {
	t.Helper()
	shared.once.Do(func() { shared.cluster, shared.skip, shared.err = start() })
	switch {
	case shared.skip != nil:
		t.Skipf("needs PostgreSQL: %v", shared.skip)
	case shared.err != nil:
		t.Fatalf("start PostgreSQL: %v", shared.err)
	}
	return shared.cluster
}

type cluster struct {
	dir   string
	admin *sql.DB
	count atomic.Int64
	hold  io.WriteCloser // the cluster lives as long as this pipe is open
}

func (c *cluster) url(params url.Values) string {
	params.Set("host", c.dir)
	params.Set("sslmode", "disable")
	u := url.URL{Scheme: "postgres", User: url.User("weft"), Path: "/postgres", RawQuery: params.Encode()}
	return u.String()
}

// binDirs are where packages put the server's programs, which are rarely in PATH.
var binDirs = []string{
	"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/usr/local/bin",
	"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin",
}

// findPrograms looks for initdb and postgres in the same folder.
func findPrograms() (dir string, err error) {
	var dirs []string
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, pattern := range binDirs {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		slices.Reverse(found) // newest version first
		dirs = append(dirs, found...)
	}
	for _, dir := range dirs {
		_, errInit := os.Stat(filepath.Join(dir, "initdb"))
		_, errServer := os.Stat(filepath.Join(dir, "postgres"))
		if errInit == nil && errServer == nil {
			return dir, nil
		}
	}
	return "", errors.New("no initdb and postgres found in PATH and the usual folders")
}

// script makes and runs the cluster in the folder $2 with the programs in $1, until standard input ends.
const script = `
trap '' INT TERM HUP
"$1/initdb" --no-sync --no-instructions --auth=trust --username=weft --encoding=UTF8 --locale=C \
	--wal-segsize=1 -D "$2/data" >"$2/log" 2>&1 || { cat "$2/log" >&2; rm -rf "$2"; exit 1; }
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off -c full_page_writes=off \
	-c max_connections=300 -c shared_buffers=64MB -c wal_level=minimal -c max_wal_senders=0 \
	-c deadlock_timeout=100ms -c checkpoint_timeout=1h -c max_wal_size=512MB -c jit=off -c max_parallel_workers_per_gather=0 \
	>"$2/log" 2>&1 </dev/null &
server=$!
cat >/dev/null
kill -QUIT $server
wait $server
rm -rf "$2"
`

const startTime = 60 * time.Second

// start makes the cluster and waits until it answers.
func start() (c *cluster, skip, err error) {
	if runtime.GOOS == "windows" {
		return nil, errors.New("no temporary cluster on Windows"), nil
	}
	programs, err := findPrograms()
	if err != nil {
		return nil, err, nil
	}
	dir, err := os.MkdirTemp(socketRoot(), "weft-pg-")
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command("/bin/sh", "-c", script, "sh", programs, dir)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if err := unprivileged(cmd, dir); err != nil {
		return nil, err, os.RemoveAll(dir)
	}
	hold, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	var output strings.Builder
	cmd.Stderr = &output
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	c = &cluster{dir: dir, hold: hold}
	if c.admin, err = sql.Open("postgres", c.url(url.Values{"lock_timeout": {"5s"}, "application_name": {"sqldbtest"}})); err != nil {
		return nil, nil, errors.Join(err, hold.Close())
	}
	c.admin.SetMaxOpenConns(2)
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	for {
		if err = c.admin.PingContext(ctx); err == nil {
			return c, nil, nil
		}
		select {
		case err := <-ended:
			return nil, nil, fmt.Errorf("ended at once (%w): %s", err, output.String())
		case <-ctx.Done():
			return nil, nil, errors.Join(fmt.Errorf("no answer after %v: %w", startTime, err), hold.Close())
		case <-time.After(20 * time.Millisecond): // it says nowhere else that it is ready
		}
	}
}

// socketRoot is the folder for the cluster's: the path of a Unix socket is limited to some 100 bytes.
func socketRoot() string {
	if dir := os.TempDir(); len(dir) <= 40 {
		return dir
	}
	return "/tmp"
}
