package mediaapi

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"
	"time"
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

func (f *fixture) fileCount(t *testing.T) (n int) {
	t.Helper()
	err := filepath.Walk(f.Dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
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
		if err := f.files.putVariant(hash[:], "96x96-crop", []byte("small")); err != nil {
			t.Fatal(err)
		}
		if got := f.keep(t, 151); got["remote_media"] != 1 {
			t.Errorf("after 151 days: %v", got)
		}
		if n := f.fileCount(t); n != 1 {
			t.Errorf("%d files are left, want the one of this server", n)
		}
		get() // it is fetched again
		if n := f.remote.asked.Load(); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

// A file that is ours too stays when the remote media goes, and one that was just stored stays even
// without a row.
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
		hash, _, err := f.files.put(bytes.NewReader([]byte("on its way")), 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			before time.Time
			want   bool
		}{{time.Now().Add(-day), false}, {time.Now().Add(day), true}, {time.Now().Add(day), false}} {
			if got, err := f.files.remove(hash, c.before); got != c.want || err != nil {
				t.Errorf("removed: %v (%v), want %v", got, err, c.want)
			}
			if file, _, err := f.files.open(hash, ""); err == nil {
				_ = file.Close()
			} else if !c.want && c.before.Before(time.Now()) {
				t.Errorf("the young file is gone: %v", err)
			}
		}
	})
}

func TestBrokenUploadsGo(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		if err := os.WriteFile(filepath.Join(f.Dir, "tmp", "upload-1"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := f.keep(t, 0); got["broken_uploads"] != 0 || f.fileCount(t) != 1 {
			t.Errorf("at once: %v", got)
		}
		if got := f.keep(t, 2); got["broken_uploads"] != 1 || f.fileCount(t) != 0 {
			t.Errorf("later: %v", got)
		}
	})
}
