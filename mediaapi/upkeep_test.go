package mediaapi

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/internal/sqldb"
)

const day = 24 * time.Hour

// keep runs the upkeep some days from now, and gives what was removed by kind.
func (f *fixture) keep(t *testing.T, days int) map[string]int64 {
	t.Helper()
	f.Now = func() time.Time { return time.Now().Add(time.Duration(days) * day) }
	out := map[string]int64{}
	for _, task := range f.upkeep() {
		n, err := task.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out[task.Kind] = n
	}
	return out
}

// count counts files in all, with those that are being made, and what is kept in the database.
func (f *fixture) count(t *testing.T) (n int) {
	t.Helper()
	err := filepath.Walk(f.Dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			n++
		}
		return err
	})
	var blobs int
	if err == nil {
		err = f.DB.QueryRow(t.Context(), `SELECT COUNT(*) FROM media_blobs`).Scan(&blobs)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n + blobs
}

// check fails the test where chunks belong to nothing, or bytes are not whole.
func (f *fixture) check(t *testing.T) {
	t.Helper()
	for what, query := range map[string]string{
		"chunks of no blob": `SELECT COUNT(*) FROM media_chunks WHERE NOT EXISTS (SELECT 1 FROM media_blobs b WHERE b.blob = media_chunks.blob)`,
		"blobs of another size": `SELECT COUNT(*) FROM media_blobs WHERE size <>
			(SELECT COALESCE(SUM(LENGTH(data)), 0) FROM media_chunks c WHERE c.blob = media_blobs.blob)`,
		"unfinished uploads":         `SELECT COUNT(*) FROM media_uploads`,
		"thumbnails without a whole": `SELECT COUNT(*) FROM media_blobs v WHERE NOT EXISTS (SELECT 1 FROM media_blobs b WHERE b.hash = v.hash AND b.variant = '')`,
	} {
		var n int
		if err := f.DB.QueryRow(t.Context(), query).Scan(&n); err != nil || n != 0 {
			t.Errorf("%s: %d (%v)", what, n, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(f.Dir, "tmp", "*")); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v (%v)", left, err)
	}
}

// keepBytes keeps bytes that no row names.
func (f *fixture) keepBytes(t *testing.T, content []byte) (hash []byte) {
	t.Helper()
	var m media
	file, err := f.spool.take(bytes.NewReader(content), f.MaxUpload)
	if err == nil {
		err = f.store(t.Context(), file, &m, func(*sqldb.Tx) error { return nil })
	}
	if err != nil {
		t.Fatal(err)
	}
	return m.hash
}

func (f *fixture) has(t *testing.T, hash []byte, variant string) bool {
	t.Helper()
	_, err := f.blobs.find(t.Context(), hash, variant)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func TestRemoteMediaThatNobodyLooksAtGoes(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const path = "/_matrix/client/v1/media/download/there/known"
		get := func() {
			t.Helper()
			if rec := f.do("alice", "GET", path, nil); rec.Code != 200 || rec.Body.String() != "hello" {
				t.Errorf("%d %q", rec.Code, rec.Body)
			}
		}
		get()
		f.upload(t, []byte("ours"), "text/plain", "")
		if got := f.keep(t, 60); got["remote_media"] != 0 {
			t.Errorf("after 60 days: %v", got)
		}
		get() // and it is used for 90 days more
		if got := f.keep(t, 120); got["remote_media"] != 0 {
			t.Errorf("after 120 days: %v", got)
		}
		hash := sha256.Sum256(f.remote.content)
		if err := f.blobs.putVariant(t.Context(), hash[:], "96x96-crop", []byte("small")); err != nil {
			t.Fatal(err)
		}
		if got := f.keep(t, 151); got["remote_media"] != 1 {
			t.Errorf("after 151 days: %v", got)
		}
		if n := f.count(t); n != 1 {
			t.Errorf("%d files are left, want the one of this server", n)
		}
		f.keep(t, 153)
		f.check(t)
		get() // it is fetched again
		if n := f.remote.asked.Load(); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

// A file that is ours too stays when the remote media goes.
func TestFilesThatAreStillWanted(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.do("alice", "GET", "/_matrix/client/v1/media/download/there/known", nil)
		mine := f.upload(t, f.remote.content, "text/plain", "")
		if got := f.keep(t, 100); got["remote_media"] != 1 {
			t.Errorf("removed %v", got)
		}
		if rec := f.do("alice", "GET", "/_matrix/client/v1/media/download/here/"+mine, nil); rec.Code != 200 {
			t.Errorf("ours: %d %s", rec.Code, rec.Body)
		}
		f.keep(t, 102)
		f.check(t)
	})
}

// Bytes that no row names go, with their thumbnails; in a folder after a day, because their row could still come.
func TestBytesThatNothingNamesGo(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		mine := f.upload(t, []byte("named"), "text/plain", "")
		hash := sha256.Sum256([]byte("unnamed"))
		if f.InDatabase {
			f.keepBytes(t, []byte("unnamed"))
		} else {
			no := errors.New("no")
			if err := f.put([]byte("unnamed"), func(*sqldb.Tx) error { return no }); !errors.Is(err, no) {
				t.Fatal(err)
			}
			foreign := filepath.Join(f.Dir, "ab", "cd")
			if err := errors.Join(os.MkdirAll(foreign, 0o700), os.WriteFile(filepath.Join(foreign, strings.Repeat("e", 60)), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.blobs.putVariant(t.Context(), hash[:], "96x96-crop", []byte("small")); err != nil {
			t.Fatal(err)
		}
		if !f.InDatabase {
			if got := f.keep(t, 0); got["unnamed_media"] != 0 || !f.has(t, hash[:], "") {
				t.Errorf("at once: %v", got)
			}
		}
		if got := f.keep(t, 2); got["unnamed_media"] != 1 || f.has(t, hash[:], "") || f.has(t, hash[:], "96x96-crop") {
			t.Errorf("later: %v", got)
		}
		want := 1
		if !f.InDatabase {
			want = 2 // and the one that nobody knows
		}
		if got := f.keep(t, 2); got["unnamed_media"] != 0 || f.count(t) != want {
			t.Errorf("once more: %v, %d files", got, f.count(t))
		}
		if err := f.blobs.putVariant(t.Context(), hash[:], "32x32-crop", []byte("small")); !errors.Is(err, fs.ErrNotExist) || f.has(t, hash[:], "32x32-crop") {
			t.Errorf("a thumbnail that comes too late: %v", err)
		}
		if rec := f.do("alice", "GET", "/_matrix/client/v1/media/download/here/"+mine, nil); rec.Code != 200 || rec.Body.String() != "named" {
			t.Errorf("ours: %d %s", rec.Code, rec.Body)
		}
		f.check(t)
	})
}

func TestBrokenUploadsGo(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		if err := os.WriteFile(filepath.Join(f.Dir, "tmp", "upload-1"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := f.keep(t, 0); got["broken_uploads"] != 0 || f.count(t) != 1 {
			t.Errorf("at once: %v", got)
		}
		if got := f.keep(t, 2); got["broken_uploads"] != 1 || f.count(t) != 0 {
			t.Errorf("later: %v", got)
		}
	})
}
