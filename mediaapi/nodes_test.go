package mediaapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/internal/bus"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/matrix/merr"
)

// nodes runs a test with two nodes of one server, whose messages reach only themselves unless they share a bus. On SQLite
// they share the connections too, as nothing else is possible there.
func nodes(t *testing.T, shareBus bool, fn func(t *testing.T, a, b *fixture)) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		for name, inDatabase := range map[string]bool{"folder": false, "chunks": true} {
			t.Run(name, func(t *testing.T) {
				url := newURL()
				cfg := Config{DB: sqldbtest.Open(t, url), Bus: bus.NewLocal(), Dir: t.TempDir(), InDatabase: inDatabase}
				a := newFixture(t, cfg)
				if cfg.DB.Dialect() == sqldb.Postgres {
					cfg.DB = sqldbtest.Open(t, url)
				}
				if inDatabase {
					cfg.Dir = t.TempDir()
				}
				if !shareBus {
					cfg.Bus = bus.NewLocal()
				}
				fn(t, a, newFixture(t, cfg))
			})
		}
	})
}

// until waits for a condition.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: did not come about", what)
		}
	}
}

// hold runs a statement in a transaction that goes on until release is called.
func hold(t *testing.T, db *sqldb.DB, query string, args ...any) (release func()) {
	t.Helper()
	held, free, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- db.Update(context.Background(), func(tx *sqldb.Tx) error {
			_, err := tx.Exec(context.Background(), query, args...)
			close(held)
			<-free
			return err
		})
	}()
	<-held
	return func() {
		t.Helper()
		close(free)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// untilBlocked waits until so many writes wait for another to end.
func untilBlocked(t *testing.T, db *sqldb.DB, n int) {
	t.Helper()
	until(t, fmt.Sprintf("%d writes that wait", n), func() bool {
		if db.Dialect() == sqldb.SQLite {
			return db.Stats().Queued >= n
		}
		var waiting int
		err := db.QueryRow(t.Context(), `SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`).Scan(&waiting)
		if err != nil {
			t.Fatal(err)
		}
		return waiting >= n
	})
}

func (f *fixture) create(t *testing.T) (mediaID string) {
	t.Helper()
	return field(t, f.do("alice", "POST", "/_matrix/media/v1/create", nil), "content_uri")[len("mxc://here/"):]
}

func (f *fixture) fillWith(mediaID string, body []byte) *httptest.ResponseRecorder {
	return f.do("alice", "PUT", "/_matrix/media/v3/upload/here/"+mediaID, body, "Content-Type", "text/plain")
}

func (f *fixture) download(t *testing.T, mediaID string) []byte {
	t.Helper()
	rec := f.do("bob", "GET", "/_matrix/client/v1/media/download/here/"+mediaID, nil)
	if rec.Code != 200 || rec.Header().Get("Content-Length") != fmt.Sprint(rec.Body.Len()) {
		t.Errorf("%s: %d, %d bytes, said %s", mediaID, rec.Code, rec.Body.Len(), rec.Header().Get("Content-Length"))
	}
	return rec.Body.Bytes()
}

// random gives bytes that have no others within them.
func random(seed uint64, n int) []byte {
	out := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(out)
	return out
}

func TestAnyNodeServesWhatAnotherStored(t *testing.T) {
	nodes(t, false, func(t *testing.T, a, b *fixture) {
		for i, size := range []int{
			0, 1, chunkSize - 1, chunkSize, chunkSize + 1, stageChunks * chunkSize, stageChunks*chunkSize + 1, 5<<20 + 77,
		} {
			want := random(uint64(i), size)
			mediaID := a.upload(t, want, "text/plain", "")
			if got := b.download(t, mediaID); !bytes.Equal(got, want) {
				t.Errorf("%d bytes: others came back", size)
			}
			again := b.upload(t, want, "text/plain", "")
			if got := a.download(t, again); !bytes.Equal(got, want) {
				t.Errorf("%d bytes again: others came back", size)
			}
			if n := b.count(t); n != i+1 {
				t.Errorf("%d are stored, want %d: equal bytes are stored once", n, i+1)
			}
		}
		a.check(t)
		b.check(t)
	})
}

func TestThumbnailsAreSharedByNodes(t *testing.T) {
	nodes(t, false, func(t *testing.T, a, b *fixture) {
		var p bytes.Buffer
		if err := png.Encode(&p, picture(400, 200)); err != nil {
			t.Fatal(err)
		}
		path := "/_matrix/client/v1/media/thumbnail/here/" + a.upload(t, p.Bytes(), "image/png", "") + "?width=32&height=32&method=crop"
		made := a.do("alice", "GET", path, nil)
		if err := b.scaling.Acquire(t.Context(), 1); err != nil { // it cannot make one
			t.Fatal(err)
		}
		if got := b.do("alice", "GET", path, nil); got.Code != 200 || !bytes.Equal(got.Body.Bytes(), made.Body.Bytes()) {
			t.Errorf("%d, %d bytes", got.Code, got.Body.Len())
		}
		a.check(t)
	})
}

// Two uploads to one ID on two nodes: both begin while it is empty, both reach the row, one is the upload.
func TestUploadsThatMeet(t *testing.T) {
	for name, size := range map[string]int{"small": 10, "large": 5 << 20} {
		t.Run(name, func(t *testing.T) {
			nodes(t, false, func(t *testing.T, a, b *fixture) {
				mediaID := a.create(t)
				release := hold(t, a.DB, `UPDATE media SET file_name = 'held' WHERE media_id = $1`, mediaID)
				bodies := [][]byte{random(1, size), random(2, size)}
				recs := make([]*httptest.ResponseRecorder, 2)
				var wg sync.WaitGroup
				for i, f := range []*fixture{a, b} {
					wg.Go(func() { recs[i] = f.fillWith(mediaID, bodies[i]) })
				}
				untilBlocked(t, a.DB, 2)
				release()
				wg.Wait()
				won := slices.IndexFunc(recs, func(r *httptest.ResponseRecorder) bool { return r.Code == 200 })
				if won < 0 {
					t.Fatalf("neither won: %s, %s", recs[0].Body, recs[1].Body)
				}
				if lost := recs[1-won]; lost.Code != 409 || field(t, lost, "errcode") != "M_CANNOT_OVERWRITE_MEDIA" {
					t.Errorf("who lost: %d %s", lost.Code, lost.Body)
				}
				for _, f := range []*fixture{a, b} {
					if got := f.download(t, mediaID); !bytes.Equal(got, bodies[won]) {
						t.Error("the bytes are not those of the upload that won")
					}
				}
				a.keep(t, 2)
				if n := a.count(t); n != 1 {
					t.Errorf("%d are stored, want 1", n)
				}
				a.check(t)
				b.check(t)
			})
		})
	}
}

// An upload whose time passes while its row is written is there to stay.
func TestAnUploadMeetsItsEnd(t *testing.T) {
	nodes(t, false, func(t *testing.T, a, b *fixture) {
		mediaID := a.create(t)
		release := hold(t, a.DB, `UPDATE media SET expires_ts = 0, hash = $2 WHERE media_id = $1`, mediaID, []byte{1})
		removed := make(chan map[string]int64)
		go func() { removed <- b.keep(t, 2) }()
		untilBlocked(t, a.DB, 1)
		release()
		if got := <-removed; got["pending_media"] != 0 {
			t.Errorf("removed %v", got)
		}
	})
}

func TestADownloadHearsOfAnUploadOnAnotherNode(t *testing.T) {
	for name, c := range map[string]struct {
		shareBus bool
		look     func(b *fixture) error
	}{
		"by a message": {true, func(*fixture) error { return nil }},
		"by looking":   {false, func(b *fixture) error { return b.look(context.Background()) }},
	} {
		t.Run(name, func(t *testing.T) {
			nodes(t, c.shareBus, func(t *testing.T, a, b *fixture) {
				mediaID := a.create(t)
				got := make(chan string)
				for range 2 {
					go func() {
						rec := b.do("bob", "GET", "/_matrix/client/v1/media/download/here/"+mediaID+"?timeout_ms=60000", nil)
						got <- rec.Body.String()
					}()
				}
				until(t, "two who wait", func() bool {
					b.arrived.mu.Lock()
					defer b.arrived.mu.Unlock()
					w := b.arrived.waiting[mediaID]
					return w != nil && w.waiters == 2
				})
				if err := b.look(t.Context()); err != nil || len(b.arrived.list()) != 1 {
					t.Errorf("before the upload: %v waited for (%v)", b.arrived.list(), err)
				}
				began := time.Now()
				if rec := a.fillWith(mediaID, []byte("late")); rec.Code != 200 {
					t.Errorf("upload: %d %s", rec.Code, rec.Body)
				}
				if err := c.look(b); err != nil {
					t.Error(err)
				}
				for range 2 {
					if s := <-got; s != "late" || time.Since(began) > 30*time.Second {
						t.Errorf("who waited got %q after %v", s, time.Since(began))
					}
				}
				if left := b.arrived.list(); len(left) != 0 {
					t.Errorf("still waited for: %v", left)
				}
			})
		})
	}
}

// A node that hears nothing looks once a second.
func TestANodeLooksForUploads(t *testing.T) {
	url := sqldbtest.SQLiteURL(t)
	synctest.Test(t, func(t *testing.T) {
		db, err := sqldb.Open(t.Context(), url, sqldb.Options{})
		if err != nil {
			t.Fatal(err)
		}
		a := newFixture(t, Config{DB: db, Bus: bus.NewLocal(), Dir: t.TempDir()})
		b := newFixture(t, Config{DB: db, Bus: bus.NewLocal(), Dir: a.Dir})
		ctx, cancel := context.WithCancel(t.Context())
		ran, got := make(chan error), make(chan string)
		go func() { ran <- b.Run(ctx) }()
		mediaID := a.create(t)
		go func() {
			rec := b.do("bob", "GET", "/_matrix/client/v1/media/download/here/"+mediaID+"?timeout_ms=60000", nil)
			got <- rec.Body.String()
		}()
		synctest.Wait()
		began := time.Now()
		a.fillWith(mediaID, []byte("late"))
		if s := <-got; s != "late" || time.Since(began) > lookEvery {
			t.Errorf("who waited got %q after %v", s, time.Since(began))
		}
		cancel()
		if err := errors.Join(<-ran, db.Close()); err != nil {
			t.Error(err)
		}
	})
}

// put stores bytes without a request.
func (f *fixture) put(content []byte, name func(tx *sqldb.Tx) error) error {
	file, err := f.spool.take(bytes.NewReader(content), f.MaxUpload)
	if err != nil {
		return err
	}
	return f.store(context.Background(), file, &media{}, name)
}

// A removal that comes while the same bytes are stored waits for their row, and leaves them.
func TestARemovalMeetsAStore(t *testing.T) {
	nodes(t, false, func(t *testing.T, a, b *fixture) {
		if !a.InDatabase {
			t.Skip("the age of a file decides in a folder")
		}
		content := random(3, 5<<20)
		hash := a.keepBytes(t, content)
		named, free, done := make(chan struct{}, 1), make(chan struct{}), make(chan error, 2)
		m := media{origin: "here", mediaID: "again", uploader: "@alice:here", hash: hash, size: int64(len(content)), contentType: "text/plain"}
		go func() {
			done <- a.put(content, func(tx *sqldb.Tx) error {
				named <- struct{}{}
				<-free
				return a.insert(context.Background(), tx, m)
			})
		}()
		<-named
		go func() {
			removed, err := b.blobs.remove(context.Background(), hash, time.Now())
			if removed {
				err = errors.Join(err, errors.New("it was removed"))
			}
			done <- err
		}()
		untilBlocked(t, b.DB, 1)
		close(free)
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
		if got := b.download(t, "again"); !bytes.Equal(got, content) {
			t.Error("other bytes")
		}
		a.check(t)
	})
}

// A store that finds its bytes there, and comes to the row as they are removed, stores them again.
func TestAStoreMeetsARemoval(t *testing.T) {
	nodes(t, false, func(t *testing.T, a, b *fixture) {
		if !a.InDatabase {
			t.Skip("the age of a file decides in a folder")
		}
		content := random(4, 5<<20)
		hash := a.keepBytes(t, content)
		held, free, done := make(chan struct{}), make(chan struct{}), make(chan error, 2)
		go func() {
			done <- b.DB.Update(context.Background(), func(tx *sqldb.Tx) error { // what remove does
				ids, err := queryHashes(context.Background(), tx, deleteBlobSQL, hash)
				if err == nil {
					err = chunks{}.deleteChunks(context.Background(), tx, ids)
				}
				close(held)
				<-free
				return err
			})
		}()
		<-held
		m := media{origin: "here", mediaID: "again", uploader: "@alice:here", hash: hash, size: int64(len(content)), contentType: "text/plain"}
		go func() {
			done <- a.put(content, func(tx *sqldb.Tx) error { return a.insert(context.Background(), tx, m) })
		}()
		untilBlocked(t, a.DB, 1)
		close(free)
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
		if got := b.download(t, "again"); !bytes.Equal(got, content) {
			t.Error("other bytes")
		}
		a.check(t)
	})
}

// What is refused after its first chunks were stored leaves nothing, and what was given up meanwhile is told so.
func TestStoresThatComeToNothing(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		c, ok := f.blobs.(chunks)
		if !ok {
			t.Skip("a file is whole before it has its name")
		}
		content := random(5, 5<<20)
		no := merr.Forbidden("no")
		if err := f.put(content, func(*sqldb.Tx) error { return no }); !errors.Is(err, no) {
			t.Errorf("refused: %v", err)
		}
		f.check(t)
		file, err := f.spool.take(bytes.NewReader(content), f.MaxUpload)
		if err != nil {
			t.Fatal(err)
		}
		id := newBlobID()
		staged, err := c.stage(t.Context(), id, file)
		if err != nil || staged != stageChunks {
			t.Fatalf("%d staged (%v)", staged, err)
		}
		if n, err := c.sweep(t.Context(), time.Now().Add(-time.Hour)); n != 0 || err != nil {
			t.Errorf("removed %d that is on its way (%v)", n, err)
		}
		if n, err := c.sweep(t.Context(), time.Now().Add(time.Hour)); n != 1 || err != nil {
			t.Errorf("removed %d, want 1 (%v)", n, err)
		}
		err = f.DB.Update(t.Context(), func(tx *sqldb.Tx) error { return c.claim(t.Context(), tx, id, file, staged) })
		if !errors.Is(err, errGivenUp) {
			t.Errorf("after it was given up: %v", err)
		}
		if err := errors.Join(c.abandon(t.Context(), id), file.discard()); err != nil {
			t.Error(err)
		}
		f.check(t)
		if n := f.count(t); n != 0 {
			t.Errorf("%d are stored", n)
		}
	})
}

// Nodes store the same bytes and remove them as media come and go: what has a row is there.
func TestTheSameBytesComeAndGo(t *testing.T) {
	nodes(t, false, func(t *testing.T, a, b *fixture) {
		if !a.InDatabase {
			t.Skip("the age of a file decides in a folder")
		}
		const workers, rounds = 4, 15
		content := random(6, chunkSize+1)
		var wg sync.WaitGroup
		for w := range workers {
			f := []*fixture{a, b}[w%2]
			wg.Go(func() {
				for range rounds {
					mediaID := f.upload(t, content, "text/plain", "")
					if got := []*fixture{b, a}[w%2].download(t, mediaID); !bytes.Equal(got, content) {
						t.Error("other bytes")
					}
					m, err := f.get(t.Context(), f.DB, "here", mediaID)
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := f.DB.Exec(t.Context(), `DELETE FROM media WHERE media_id = $1`, mediaID); err != nil {
						t.Error(err)
					}
					if _, err := f.blobs.remove(t.Context(), m.hash, time.Now()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n := a.count(t); n != 0 {
			t.Errorf("%d are stored in the end", n)
		}
		a.check(t)
	})
}

// What is cut short is an error, never a shorter file.
func TestMissingChunks(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		if !f.InDatabase {
			t.Skip("in files there are no chunks")
		}
		hash := f.keepBytes(t, random(7, 2*chunkSize))
		for _, spoil := range []string{`UPDATE media_chunks SET data = $1 WHERE n = 1`, `DELETE FROM media_chunks WHERE n = 1 AND data = $1`} {
			if _, err := f.DB.Exec(t.Context(), spoil, []byte("short")); err != nil {
				t.Fatal(err)
			}
			found, err := f.blobs.find(t.Context(), hash, "")
			if err != nil {
				t.Fatal(err)
			}
			if err := found.copy(t.Context(), io.Discard); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: %v", spoil, err)
			}
		}
		// An image that cannot be read is our fault, not the image's.
		var p bytes.Buffer
		if err := png.Encode(&p, picture(400, 200)); err != nil {
			t.Fatal(err)
		}
		mediaID := f.upload(t, p.Bytes(), "image/png", "")
		if _, err := f.DB.Exec(t.Context(), `DELETE FROM media_chunks WHERE n < $1`, 3); err != nil {
			t.Fatal(err)
		}
		if rec := f.do("alice", "GET", "/_matrix/client/v1/media/thumbnail/here/"+mediaID+"?width=32&height=32", nil); rec.Code != 500 {
			t.Errorf("a thumbnail of it: %d %s", rec.Code, rec.Body)
		}
	})
}
