package sqldbtest_test

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

func TestRunGivesFreshDatabases(t *testing.T) {
	dialects := map[sqldb.Dialect]bool{}
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		for range 2 {
			db := open()
			dialects[db.Dialect()] = true
			if _, err := db.Exec(t.Context(), `CREATE TABLE thing (a BIGINT)`); err != nil {
				t.Errorf("not empty: %v", err)
			}
		}
	})
	if !dialects[sqldb.SQLite] {
		t.Error("SQLite was left out")
	}
}

// holdEnv makes the test below hold a cluster until it is killed, and say where it is.
const holdEnv = "WEFT_SQLDBTEST_HOLD"

func TestClusterEndsWithItsProcess(t *testing.T) {
	if os.Getenv(holdEnv) != "" {
		os.Stdout.WriteString("\nurl " + sqldbtest.PostgresURL(t) + "\n")
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			t.Fatal(err)
		}
		return
	}
	sqldbtest.PostgresURL(t) // skips where there is none
	cmd := exec.Command(os.Args[0], "-test.run=^TestClusterEndsWithItsProcess$")
	cmd.Env = append(os.Environ(), holdEnv+"=1")
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir := ""
	for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); {
		if s, ok := strings.CutPrefix(lines.Text(), "url "); ok {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			dir = u.Query().Get("host")
		}
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("no cluster: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-tick.C {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return // removed after the server ended
		}
		if time.Now().After(deadline) {
			t.Fatalf("the cluster in %s outlived its process", dir)
		}
	}
}
