package cluster

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"weft/internal/sqldb/pgtest"
)

// The database's disk is full for a while: it takes no writes, and may end. Nothing that was acknowledged is lost, and all goes on
// by itself when there is room again.
func TestDatabaseDiskFull(t *testing.T) {
	long(t)
	if os.Geteuid() != 0 {
		t.Skip("only root may mount a small file system")
	}
	root, err := os.MkdirTemp("/tmp", "weft-full-")
	must(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "size=192m,mode=1777"); err != nil {
		t.Skipf("no small file system: %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(root, syscall.MNT_DETACH)) })
	pg := ownPostgres(t, pgtest.Options{Durable: true, Root: root})
	ballast := filepath.Join(root, "ballast")
	newStorm(t, newStormy(t, 3, pg.URL(nil)), func(s *storm) {
		s.see("the database's disk full for 15 s", 15*time.Second+recovery, func() {
			must(t, fill(ballast))
			full := time.NewTimer(15 * time.Second)
			<-full.C
			must(t, os.Remove(ballast))
			// It ends when it cannot write its log; whoever keeps it running starts it again.
			if !answersSQL(t, pg) {
				t.Log("the database has ended; started again")
				must(t, pg.Restart(0))
			}
			s.w.sent(200)
		})
	})
}

// fill writes a file until the disk is full.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	chunk := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(chunk)
	}
	if errors.Is(err, syscall.ENOSPC) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// answersSQL tells whether a database is there, or comes back within some seconds.
func answersSQL(t *testing.T, pg *pgtest.Cluster) bool {
	db, err := sql.Open("postgres", pg.URL(nil))
	must(t, err)
	defer func() { must(t, db.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = db.PingContext(ctx); err == nil {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Logf("the database: %v", err)
			return false
		}
	}
}
