package mediaapi

import (
	"bytes"
	"io"
	"testing"
	"time"

	"weft/internal/bus"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// TestChunksFromAReplica: what a replica lacks comes from the primary, and what it still has is the same as before.
func TestChunksFromAReplica(t *testing.T) {
	pg := sqldbtest.NewReplicated(t)
	primary, standby := pg.URLs()
	db := sqldbtest.Open(t, primary)
	f := newFixture(t, Config{DB: db, Bus: bus.NewLocal(), Dir: t.TempDir(), InDatabase: true})
	store := func(seed uint64) (hash, content []byte) {
		content = random(seed, 3*chunkSize+1000)
		return f.keepBytes(t, content), content
	}
	reader := func(hash []byte) io.Reader {
		t.Helper()
		b, err := f.blobs.find(t.Context(), hash, "")
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	check := func(r io.Reader, want []byte) (asked sqldb.ReplicaStats) {
		t.Helper()
		before := db.ReplicaStats()
		var got bytes.Buffer
		if _, err := io.Copy(&got, r); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%d bytes of %d, %v", got.Len(), len(want), err)
		}
		after := db.ReplicaStats()
		return sqldb.ReplicaStats{Found: after.Found - before.Found, Missed: after.Missed - before.Missed, Failed: after.Failed - before.Failed,
			Passed: after.Passed - before.Passed}
	}
	old, content := store(1)
	if asked := check(reader(old), content); asked != (sqldb.ReplicaStats{}) {
		t.Errorf("without replicas: %+v", asked)
	}
	pg.CatchUp()
	if err := db.UseReplicas(t.Context(), []string{standby}); err != nil {
		t.Fatal(err)
	}
	if asked := check(reader(old), content); asked != (sqldb.ReplicaStats{Found: 4}) {
		t.Errorf("all are there: %+v", asked)
	}

	pg.Pause()
	begun := reader(old)
	if removed, err := f.blobs.remove(t.Context(), old, time.Now()); err != nil || !removed {
		t.Fatal(removed, err)
	}
	if asked := check(begun, content); asked != (sqldb.ReplicaStats{Found: 4}) {
		t.Errorf("removed meanwhile: %+v", asked)
	}
	if _, err := f.blobs.find(t.Context(), old, ""); err == nil {
		t.Error("what was removed is found")
	}
	young, content := store(2)
	if asked := check(reader(young), content); asked.Found != 0 || asked.Missed == 0 || asked.Missed+asked.Passed != 4 {
		t.Errorf("the replica is behind: %+v", asked)
	}
	pg.Stop()
	if asked := check(reader(young), content); asked.Found != 0 {
		t.Errorf("the replica is gone: %+v", asked)
	}
}
