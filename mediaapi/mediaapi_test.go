package mediaapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"weft/internal/bus"
	"weft/internal/fedclient"
	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// tokens authenticates "Bearer alice" as @alice:here.
type tokens struct{}

func (tokens) Authenticate(_ context.Context, c httpapi.Credentials) (httpapi.Session, error) {
	return httpapi.Session{User: id.User("@" + c.Token + ":here"), Device: "D"}, nil
}

// remote is a server "there" that has one file.
type remote struct {
	asked   atomic.Int32
	content []byte
	release chan struct{} // nil: answers at once
	err     error
}

func (r *remote) DownloadMedia(_ context.Context, m fedclient.MediaRequest) (*fedclient.Media, error) {
	r.asked.Add(1)
	if r.release != nil {
		<-r.release
	}
	if r.err != nil {
		return nil, r.err
	}
	if m.MediaID != "known" {
		return nil, merr.NotFound("no such media")
	}
	return &fedclient.Media{ContentType: "text/plain", ContentDisposition: `inline; filename="hello.txt"`,
		Body: io.NopCloser(bytes.NewReader(r.content))}, nil
}

type fixture struct {
	*Server
	h      http.Handler
	remote *remote
}

// newFixture makes a node.
func newFixture(t *testing.T, cfg Config) *fixture {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	r := &remote{content: []byte("hello")}
	cfg.Log, cfg.Now, cfg.ServerName, cfg.MaxUpload, cfg.Remote = log, time.Now, "here", 6<<20, r
	cfg.LegacyDownloads, cfg.RemoteLifetime = true, 90*24*time.Hour
	s, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.listen())
	h := httpapi.NewHandler(httpapi.Config{
		Log: logrus.NewEntry(log), Auth: tokens{},
		VerifyServer: func(*http.Request, []byte) (id.Server, error) { return "there", nil },
	}, s.Routes())
	return &fixture{s, h, r}
}

// places runs a test with bytes in a folder and in the database, on both databases.
func places(t *testing.T, fn func(t *testing.T, cfg Config)) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		for name, inDatabase := range map[string]bool{"folder": false, "chunks": true} {
			t.Run(name, func(t *testing.T) {
				fn(t, Config{DB: open(), Bus: bus.NewLocal(), Dir: t.TempDir(), InDatabase: inDatabase})
			})
		}
	})
}

// each runs a test with a node in each place.
func each(t *testing.T, fn func(t *testing.T, f *fixture)) {
	places(t, func(t *testing.T, cfg Config) { fn(t, newFixture(t, cfg)) })
}

func (f *fixture) do(user, method, path string, body []byte, header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, bytes.NewReader(body))
	if user != "" {
		req.Header.Set("Authorization", "Bearer "+user)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	f.h.ServeHTTP(rec, req)
	return rec
}

func (f *fixture) upload(t *testing.T, body []byte, contentType, query string) string {
	t.Helper()
	rec := f.do("alice", "POST", "/_matrix/media/v3/upload"+query, body, "Content-Type", contentType)
	if rec.Code != 200 {
		t.Fatalf("upload: %d %s", rec.Code, rec.Body)
	}
	return field(t, rec, "content_uri")[len("mxc://here/"):]
}

func field(t *testing.T, rec *httptest.ResponseRecorder, name string) string {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &doc); err != nil {
		t.Fatalf("%v in %s", err, rec.Body)
	}
	v, _ := doc[name].(string)
	return v
}

func TestUploadAndDownload(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for _, c := range []struct{ contentType, name, wantKind string }{
			{"image/png", "a.png", "inline"},
			{"Text/Plain; charset=utf-8", "name with spaces", "inline"},
			{"text/html", "name;with;semicolons", "attachment"},
			{"application/octet-stream", "\u2615", "attachment"},
		} {
			mediaID := f.upload(t, []byte("data of "+c.name), c.contentType, "?filename="+strings.NewReplacer(" ", "%20", ";", "%3B", "\u2615", "%E2%98%95").Replace(c.name))
			rec := f.do("bob", "GET", "/_matrix/client/v1/media/download/here/"+mediaID, nil)
			if rec.Code != 200 || rec.Body.String() != "data of "+c.name || rec.Header().Get("Content-Type") != c.contentType {
				t.Errorf("%q: %d %q %v", c.name, rec.Code, rec.Body, rec.Header())
			}
			kind, params, err := mime.ParseMediaType(rec.Header().Get("Content-Disposition"))
			if err != nil || kind != c.wantKind || params["filename"] != c.name {
				t.Errorf("%q: disposition %q", c.name, rec.Header().Get("Content-Disposition"))
			}
			if rec.Header().Get("Content-Security-Policy") == "" || rec.Header().Get("Cross-Origin-Resource-Policy") != "cross-origin" {
				t.Errorf("headers: %v", rec.Header())
			}
		}
	})
}

func TestTheSameBytesAreStoredOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		a, b := f.upload(t, []byte("same"), "text/plain", ""), f.upload(t, []byte("same"), "image/png", "")
		ma, err := f.get(t.Context(), f.DB, "here", a)
		if err != nil {
			t.Fatal(err)
		}
		mb, err := f.get(t.Context(), f.DB, "here", b)
		if err != nil {
			t.Fatal(err)
		}
		if a == b || !bytes.Equal(ma.hash, mb.hash) || ma.contentType == mb.contentType {
			t.Errorf("%+v %+v", ma, mb)
		}
	})
}

func TestWhatIsRefused(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		big := make([]byte, 6<<20+1)
		for _, c := range []struct {
			name, user, method, path string
			body                     []byte
			status                   int
			code                     string
		}{
			{"too large", "alice", "POST", "/_matrix/media/v3/upload", big, 413, "M_TOO_LARGE"},
			{"no token", "", "GET", "/_matrix/client/v1/media/download/here/x", nil, 401, "M_MISSING_TOKEN"},
			{"unknown", "alice", "GET", "/_matrix/client/v1/media/download/here/x", nil, 404, "M_NOT_FOUND"},
			{"traversal", "alice", "GET", "/_matrix/client/v1/media/download/here/..%2F..%2Fetc", nil, 404, "M_NOT_FOUND"},
			{"no server name", "alice", "GET", "/_matrix/client/v1/media/download/he%20re/x", nil, 400, "M_INVALID_PARAM"},
			{"unknown there", "alice", "GET", "/_matrix/client/v1/media/download/there/unknown", nil, 404, "M_NOT_FOUND"},
			{"no width", "alice", "GET", "/_matrix/client/v1/media/thumbnail/here/x?height=3", nil, 400, "M_MISSING_PARAM"},
			{"zero width", "alice", "GET", "/_matrix/client/v1/media/thumbnail/here/x?height=3&width=0", nil, 400, "M_INVALID_PARAM"},
			{"bad method", "alice", "GET", "/_matrix/client/v1/media/thumbnail/here/x?height=3&width=3&method=x", nil, 400, "M_INVALID_PARAM"},
			{"no remote", "", "GET", "/_matrix/media/v3/download/there/known?allow_remote=false", nil, 404, "M_NOT_FOUND"},
		} {
			rec := f.do(c.user, c.method, c.path, c.body)
			if rec.Code != c.status || field(t, rec, "errcode") != c.code {
				t.Errorf("%s: %d %s", c.name, rec.Code, rec.Body)
			}
		}
		rec := f.do("alice", "GET", "/_matrix/client/v1/media/config", nil)
		if rec.Body.String() != `{"m.upload.size":6291456}` {
			t.Errorf("config: %s", rec.Body)
		}
	})
}

func TestAsyncUpload(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		rec := f.do("alice", "POST", "/_matrix/media/v1/create", nil)
		mediaID := field(t, rec, "content_uri")[len("mxc://here/"):]
		path := "/_matrix/client/v1/media/download/here/" + mediaID
		if rec = f.do("bob", "GET", path+"?timeout_ms=0", nil); rec.Code != 504 || field(t, rec, "errcode") != "M_NOT_YET_UPLOADED" {
			t.Errorf("before the upload: %d %s", rec.Code, rec.Body)
		}
		put := func(user string) *httptest.ResponseRecorder {
			return f.do(user, "PUT", "/_matrix/media/v3/upload/here/"+mediaID, []byte("late"), "Content-Type", "text/plain")
		}
		if rec = put("bob"); rec.Code != 403 {
			t.Errorf("another user's upload: %d %s", rec.Code, rec.Body)
		}
		waited := make(chan string)
		go func() { waited <- f.do("bob", "GET", path+"?timeout_ms=60000", nil).Body.String() }()
		if rec = put("alice"); rec.Code != 200 {
			t.Errorf("upload: %d %s", rec.Code, rec.Body)
		}
		if got := <-waited; got != "late" {
			t.Errorf("who waited got %q", got)
		}
		if rec = put("alice"); rec.Code != 409 || field(t, rec, "errcode") != "M_CANNOT_OVERWRITE_MEDIA" {
			t.Errorf("a second upload: %d %s", rec.Code, rec.Body)
		}
	})
}

func TestAnUploadThatNeverComesIsForgotten(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		mediaID := field(t, f.do("alice", "POST", "/_matrix/media/v1/create", nil), "content_uri")[len("mxc://here/"):]
		f.Now = func() time.Time { return time.Now().Add(pendingTTL + time.Minute) }
		if rec := f.do("alice", "PUT", "/_matrix/media/v3/upload/here/"+mediaID, []byte("x")); rec.Code != 404 {
			t.Errorf("after its time: %d %s", rec.Code, rec.Body)
		}
		if _, err := f.upkeep()[0].Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		var rows int
		if err := f.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM media").Scan(&rows); err != nil || rows != 0 {
			t.Errorf("%d rows are left (%v)", rows, err)
		}
	})
}

func TestRemoteMediaIsFetchedOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.remote.release = make(chan struct{})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				rec := f.do("alice", "GET", "/_matrix/client/v1/media/download/there/known", nil)
				if rec.Code != 200 || rec.Body.String() != "hello" || !strings.Contains(rec.Header().Get("Content-Disposition"), "hello.txt") {
					t.Errorf("%d %q %v", rec.Code, rec.Body, rec.Header())
				}
			})
		}
		close(f.remote.release)
		wg.Wait()
		if n := f.remote.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestRemoteFailures(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for name, c := range map[string]struct {
			err     error
			content []byte
			status  int
			code    string
		}{
			"unreachable": {err: errors.New("dial tcp: refused"), status: 502, code: "M_CONNECTION_FAILED"},
			"too large":   {content: make([]byte, 6<<20+1), status: 502, code: "M_TOO_LARGE"},
			"not yet":     {err: merr.NotYetUploaded("wait"), status: 504, code: "M_NOT_YET_UPLOADED"},
		} {
			f.remote.err, f.remote.content = c.err, c.content
			rec := f.do("alice", "GET", "/_matrix/client/v1/media/download/there/known", nil)
			if rec.Code != c.status || field(t, rec, "errcode") != c.code {
				t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
			}
		}
	})
}

func picture(w, h int) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for x := range w {
		for y := range h {
			img.Set(x, y, color.RGBA{uint8(x), uint8(y), 100, 255})
		}
	}
	return img
}

func TestThumbnails(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		var p, j bytes.Buffer
		if err := errors.Join(png.Encode(&p, picture(400, 200)), jpeg.Encode(&j, picture(400, 200), nil)); err != nil {
			t.Fatal(err)
		}
		ids := map[string]string{"png": f.upload(t, p.Bytes(), "image/png", ""), "jpeg": f.upload(t, j.Bytes(), "image/jpeg", "")}
		for _, c := range []struct {
			query string
			w, h  int
		}{
			{"width=32&height=32&method=crop", 32, 32},
			{"width=20&height=30&method=crop", 32, 32},
			{"width=32&height=32&method=scale", 64, 32},
			{"width=90&height=90", 192, 96},
			{"width=320&height=240&method=scale", 400, 200}, // nothing is enlarged
			{"width=5000&height=5000&method=scale", 400, 200},
		} {
			for format, mediaID := range ids {
				for range 2 { // made, then read
					rec := f.do("alice", "GET", "/_matrix/client/v1/media/thumbnail/here/"+mediaID+"?"+c.query, nil)
					cfg, got, err := image.DecodeConfig(bytes.NewReader(rec.Body.Bytes()))
					if err != nil || got != format || rec.Header().Get("Content-Type") != "image/"+format || cfg.Width != c.w || cfg.Height != c.h {
						t.Errorf("%s: %s %dx%d, want %s %dx%d (%v, %d)", c.query, got, cfg.Width, cfg.Height, format, c.w, c.h, err, rec.Code)
					}
				}
			}
		}
		text := f.upload(t, []byte("no picture"), "image/png", "")
		if rec := f.do("alice", "GET", "/_matrix/client/v1/media/thumbnail/here/"+text+"?width=32&height=32", nil); rec.Code != 400 {
			t.Errorf("of a text: %d %s", rec.Code, rec.Body)
		}
	})
}

func TestOtherServersGetMultipart(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		mediaID := f.upload(t, []byte("shared"), "text/plain", "?filename=f.txt")
		rec := f.do("", "GET", "/_matrix/federation/v1/media/download/"+mediaID, nil)
		typ, params, err := mime.ParseMediaType(rec.Header().Get("Content-Type"))
		if err != nil || typ != "multipart/mixed" {
			t.Fatalf("%d %v %s", rec.Code, rec.Header(), rec.Body)
		}
		mr := multipart.NewReader(rec.Body, params["boundary"])
		for _, want := range []struct{ typ, body string }{{"application/json", "{}"}, {"text/plain", "shared"}} {
			part, err := mr.NextPart()
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(part)
			if err != nil || string(body) != want.body || part.Header.Get("Content-Type") != want.typ {
				t.Errorf("part %q %v, want %+v (%v)", body, part.Header, want, err)
			}
		}
	})
}
