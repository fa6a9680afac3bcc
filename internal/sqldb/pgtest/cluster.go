package pgtest

import (
	"cmp"
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
	"strconv"
	"strings"
	"time"

	_ "github.com/lib/pq" // the driver "postgres"
)

// ErrMissing says that this system has no PostgreSQL, or none that can be started from here.
var ErrMissing = errors.New("no PostgreSQL")

// Options say what the cluster is for.
type Options struct {
	// Durable keeps the server's own settings, which are safe from a power cut and what operators run. Otherwise it is set up
	// for tests: nothing waits for the disk.
	Durable bool
	// Root is the folder in which the cluster's folder is made, such as one of limited size; empty: a temporary one. Its path
	// must be short.
	Root string
	// Primary is the cluster of which this one is to be a standby by streaming replication, with the same settings; nil: none.
	// It needs Standbys.
	Primary *Cluster
	// Standbys lets the cluster have standbys.
	Standbys bool
}

// Cluster is a running cluster.
type Cluster struct {
	// Dir holds its files and its socket.
	Dir  string
	hold io.WriteCloser // it lives as long as this pipe is open
	// ended is closed when the script has ended and err says how.
	ended chan struct{}
	err   error
}

// fastSettings are for tests: many small databases, no durability, no surprises in plans.
func fastSettings() []string {
	return []string{"fsync=off", "full_page_writes=off", "max_connections=300", "shared_buffers=64MB", "wal_level=minimal",
		"max_wal_senders=0", "deadlock_timeout=100ms", "checkpoint_timeout=1h", "max_wal_size=512MB", "jit=off",
		"max_parallel_workers_per_gather=0"}
}

// standbySettings let a cluster have standbys.
func standbySettings() []string { return []string{"wal_level=replica", "max_wal_senders=5"} }

// script makes and runs the cluster in the folder $2 with the programs in $1 and further settings, until standard input ends; a
// standby of the one with its socket in $3, if that is not empty. For each line of the input the server is crashed, and
// started again after so many seconds; or it is stopped until the line "start".
const script = `
trap '' INT TERM HUP
programs=$1 dir=$2 primary=$3
shift 3
if [ -n "$primary" ]; then
	"$programs/pg_basebackup" --no-sync --checkpoint=fast --wal-method=stream --write-recovery-conf --host="$primary" --username=weft \
		-D "$dir/data" >"$dir/log" 2>&1
else
	"$programs/initdb" --no-sync --no-instructions --auth=trust --username=weft --encoding=UTF8 --locale=C \
		--wal-segsize=1 -D "$dir/data" >"$dir/log" 2>&1
fi || { cat "$dir/log" >&2; rm -rf "$dir"; exit 1; }
run() {
	"$programs/postgres" -D "$dir/data" -k "$dir" -c listen_addresses= "$@" >>"$dir/log" 2>&1 </dev/null &
	server=$!
}
run "$@"
while read -r pause; do
	if [ "$pause" != start ]; then
		kill -QUIT $server
		wait $server
	fi
	if [ "$pause" != stop ]; then
		[ "$pause" = start ] || sleep "$pause"
		run "$@"
	fi
done
kill -QUIT $server
wait $server
rm -rf "$dir"
`

const startTime = 60 * time.Second

// Start makes a cluster and waits until it answers. The error is ErrMissing where there is no PostgreSQL.
func Start(o Options) (*Cluster, error) {
	if runtime.GOOS == "windows" {
		return nil, fmt.Errorf("%w: no temporary cluster on Windows", ErrMissing)
	}
	programs, err := findPrograms()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(cmp.Or(o.Root, socketRoot()), "weft-pg-")
	if err != nil {
		return nil, err
	}
	args := []string{"-c", script, "sh", programs, dir, ""}
	var settings []string
	if !o.Durable {
		settings = fastSettings()
	}
	if o.Standbys || o.Primary != nil {
		settings = append(settings, standbySettings()...)
	}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	if o.Primary != nil {
		if _, err := os.Stat(filepath.Join(programs, "pg_basebackup")); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrMissing, err), os.RemoveAll(dir))
		}
		args[5] = o.Primary.Dir
	}
	cmd := exec.Command("/bin/sh", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if err := unprivileged(cmd, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrMissing, err), os.RemoveAll(dir))
	}
	hold, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	var output strings.Builder
	cmd.Stderr = &output
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	c := &Cluster{Dir: dir, hold: hold, ended: make(chan struct{})}
	go func() {
		c.err = cmd.Wait()
		close(c.ended)
	}()
	if err := c.await(&output); err != nil {
		return nil, errors.Join(err, hold.Close())
	}
	return c, nil
}

// await returns when the cluster answers.
func (c *Cluster) await(output *strings.Builder) (err error) {
	db, err := sql.Open("postgres", c.URL(url.Values{}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	for {
		if err = db.PingContext(ctx); err == nil {
			return nil
		}
		select {
		case <-c.ended:
			return fmt.Errorf("ended at once (%w): %s", c.err, output.String())
		case <-ctx.Done():
			return fmt.Errorf("no answer after %v: %w", startTime, err)
		case <-time.After(20 * time.Millisecond): // it says nowhere else that it is ready
		}
	}
}

// URL names the cluster's database with further connection parameters, if there are any.
func (c *Cluster) URL(params url.Values) string {
	if params == nil {
		params = url.Values{}
	}
	params.Set("host", c.Dir)
	params.Set("sslmode", "disable")
	u := url.URL{Scheme: "postgres", User: url.User("weft"), Path: "/postgres", RawQuery: params.Encode()}
	return u.String()
}

// PID gives the process ID of the cluster's first process, the parent of the others.
func (c *Cluster) PID() (int, error) {
	text, err := os.ReadFile(filepath.Join(c.Dir, "data", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	return strconv.Atoi(strings.TrimSpace(first))
}

// Restart ends the server as an immediate shutdown does, without a word to its sessions and without a checkpoint, and starts it
// again after a pause. It does not wait for that. A server that has ended by itself is started again too.
func (c *Cluster) Restart(pause time.Duration) error {
	_, err := fmt.Fprintln(c.hold, int(pause.Seconds()))
	return err
}

// Stop ends the server as Restart does, until Continue. It does not wait for that.
func (c *Cluster) Stop() error {
	_, err := fmt.Fprintln(c.hold, "stop")
	return err
}

// Continue starts the server again after Stop. It does not wait for that.
func (c *Cluster) Continue() error {
	_, err := fmt.Fprintln(c.hold, "start")
	return err
}

// Close stops the cluster and removes its files.
func (c *Cluster) Close() error {
	err := c.hold.Close()
	<-c.ended // the exit status is that of removing the files
	return errors.Join(err, c.err)
}

// binDirs are where packages put the server's programs, which are rarely in PATH.
func binDirs() []string {
	return []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/usr/local/bin",
		"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin"}
}

// findPrograms looks for initdb and postgres in the same folder.
func findPrograms() (dir string, err error) {
	var dirs []string
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, pattern := range binDirs() {
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
	return "", fmt.Errorf("%w: no initdb and postgres found in PATH and the usual folders", ErrMissing)
}

// socketRoot is the folder for the cluster's: the path of a Unix socket is limited to some 100 bytes.
func socketRoot() string {
	if dir := os.TempDir(); len(dir) <= 40 {
		return dir
	}
	return "/tmp"
}
