package fedclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"weft/internal/fedclient/guard"
	"weft/matrix/merr"
)

const mediaURI = "GET " + fed1 + "/media/download/abc"

// parts answers with multipart/mixed; a part is its header and its body.
func parts(p ...[2]string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", `multipart/mixed; boundary="b0"`)
		for _, part := range p {
			fmt.Fprintf(w, "\r\n--b0\r\n%s\r\n\r\n%s", part[0], part[1])
		}
		io.WriteString(w, "\r\n--b0--\r\n")
	}
}

var jsonPart = [2]string{"Content-Type: application/json", "{}"}

func readMedia(t *testing.T, m *Media) (string, error) {
	t.Helper()
	data, err := io.ReadAll(m.Body)
	if cerr := m.Body.Close(); cerr != nil {
		t.Fatal(cerr)
	}
	return string(data), err
}

func TestDownloadMedia(t *testing.T) {
	ctx := context.Background()
	req := MediaRequest{Server: "peer.example", MediaID: "abc", MaxBytes: 1000}
	gif := [2]string{"Content-Type: image/gif\r\nContent-Disposition: inline; filename=\"x.gif\"", "GIF89a\r\n--b\r\n"}
	redirect := func(to string) [2]string { return [2]string{"Location: " + to, ""} }
	cases := []struct {
		name    string
		handler http.HandlerFunc
		want    string // empty: an error
		typ     string
	}{
		{"two parts", parts(jsonPart, gif), "GIF89a\r\n--b\r\n", "image/gif"},
		{"part without a type", parts(jsonPart, [2]string{"X: y", "data"}), "data", ""},
		{"quoted-printable stays as it is", parts(jsonPart, [2]string{"Content-Transfer-Encoding: quoted-printable", "a=20b"}), "a=20b", ""},
		{"redirect", parts(jsonPart, redirect("https://cdn.example/file?sig=x")), "from the cdn", "image/png"},
		{"redirect that redirects", parts(jsonPart, redirect("https://cdn.example/again")), "from the cdn", "image/png"},
		{"redirect to http", parts(jsonPart, redirect("http://cdn.example/file?sig=x")), "", ""},
		{"redirect to nothing", parts(jsonPart, redirect("https://cdn.example/missing")), "", ""},
		{"redirect in circles", parts(jsonPart, redirect("https://cdn.example/loop")), "", ""},
		{"redirect into the depths", parts(jsonPart, redirect("https://127.0.0.1/file")), "", ""},
		{"one part", parts(jsonPart), "", ""},
		{"first part is no JSON", parts([2]string{"Content-Type: application/json", "nope"}, gif), "", ""},
		{"first part is too long", parts([2]string{"Content-Type: application/json", `{"x":"` + strings.Repeat("x", maxMediaMetadata) + `"}`}, gif), "", ""},
		{"not multipart", reply(200, `{}`), "", ""},
		{"no boundary", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "multipart/mixed")
			io.WriteString(w, "x")
		}, "", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, nil)
			l.peer(map[string]http.HandlerFunc{mediaURI: c.handler})
			l.serve("cdn.example:443", func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "" {
					t.Error("our signature went to a third party")
				}
				switch r.RequestURI {
				case "/file?sig=x":
					w.Header().Set("Content-Type", "image/png")
					io.WriteString(w, "from the cdn")
				case "/again":
					http.Redirect(w, r, "/file?sig=x", http.StatusFound)
				case "/loop":
					http.Redirect(w, r, "/loop", http.StatusFound)
				default:
					w.WriteHeader(404)
				}
			}, "cdn.example")
			m, err := l.client.DownloadMedia(ctx, req)
			if c.want == "" {
				if err == nil || merr.From(err).Status != 502 {
					t.Fatalf("got %+v, %v", m, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			data, err := readMedia(t, m)
			if err != nil || data != c.want || m.ContentType != c.typ {
				t.Fatalf("%q of type %q, %v", data, m.ContentType, err)
			}
			if c.name == "two parts" && m.ContentDisposition != `inline; filename="x.gif"` {
				t.Fatalf("disposition %q", m.ContentDisposition)
			}
		})
	}
	l := newLab(t, nil)
	if _, err := l.client.DownloadMedia(ctx, MediaRequest{Server: "peer.example", MediaID: "abc"}); err == nil {
		t.Fatal("media without a bound")
	}
}

func TestMediaIsBounded(t *testing.T) {
	ctx := context.Background()
	big := strings.Repeat("x", 5000)
	handlers := map[string]map[string]http.HandlerFunc{
		"part":     {mediaURI: parts(jsonPart, [2]string{"X: y", big})},
		"redirect": {mediaURI: parts(jsonPart, [2]string{"Location: https://peer.example:8448/big", ""}), "GET /big": reply(200, big)},
		"old":      {"GET /_matrix/media/v3/download/peer.example/abc?allow_redirect=true&allow_remote=false": reply(200, big)},
	}
	for name, routes := range handlers {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, nil)
			l.peer(routes)
			fetch := func(limit int64) (string, error) {
				m, err := l.client.DownloadMedia(ctx, MediaRequest{Server: "peer.example", MediaID: "abc", MaxBytes: limit})
				if err != nil {
					return "", err
				}
				return readMedia(t, m)
			}
			if data, err := fetch(5000); err != nil || data != big {
				t.Fatalf("media of just the bound: %d bytes, %v", len(data), err)
			}
			if _, err := fetch(4999); !errors.Is(err, ErrResponseTooLarge) {
				t.Fatalf("media over the bound gave %v", err)
			}
		})
	}
}

func TestOldMedia(t *testing.T) {
	const old = "GET /_matrix/media/v3/download/peer.example/abc?allow_redirect=true&allow_remote=false"
	ctx := context.Background()
	l := newLab(t, nil)
	l.peer(map[string]http.HandlerFunc{old: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Disposition", "attachment")
		io.WriteString(w, "old data")
	}})
	m, err := l.client.DownloadMedia(ctx, MediaRequest{Server: "peer.example", MediaID: "abc", MaxBytes: 100})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := readMedia(t, m); err != nil || data != "old data" || m.ContentType != "text/plain" || m.ContentDisposition != "attachment" || m.Length != 8 {
		t.Fatalf("%q, %+v, %v", data, m, err)
	}
	if l.last().auth != "" {
		t.Fatal("the old endpoint got a signature")
	}

	l = newLab(t, nil)
	l.peer(map[string]http.HandlerFunc{old: func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://peer.example:8448/elsewhere", http.StatusTemporaryRedirect)
	}, "GET /elsewhere": reply(200, "moved")})
	m, err = l.client.DownloadMedia(ctx, MediaRequest{Server: "peer.example", MediaID: "abc", MaxBytes: 100})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := readMedia(t, m); err != nil || data != "moved" {
		t.Fatalf("%q, %v", data, err)
	}

	// Media that is not there is not looked for in the old place.
	l = newLab(t, nil)
	l.peer(map[string]http.HandlerFunc{mediaURI: reply(404, `{"errcode":"M_NOT_FOUND","error":"x"}`), old: reply(200, "old data")})
	if _, err = l.client.DownloadMedia(ctx, MediaRequest{Server: "peer.example", MediaID: "abc", MaxBytes: 100}); !errors.Is(err, merr.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
}

func TestThumbnail(t *testing.T) {
	l := newLab(t, nil)
	l.peer(map[string]http.HandlerFunc{
		"GET " + fed1 + "/media/thumbnail/a%2Fc?animated=false&height=20&method=crop&timeout_ms=500&width=10": parts(jsonPart, [2]string{"Content-Type: image/png", "png"}),
	})
	no := false
	m, err := l.client.GetThumbnail(context.Background(), ThumbnailRequest{
		MediaRequest: MediaRequest{Server: "peer.example", MediaID: "a/c", MaxBytes: 100, WaitMS: 500},
		Width:        10, Height: 20, Method: "crop", Animated: &no,
	})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := readMedia(t, m); err != nil || data != "png" || m.ContentType != "image/png" {
		t.Fatalf("%q, %+v, %v", data, m, err)
	}
	l.checkSigned("GET", "peer.example")
}

// A redirect must not lead to addresses that a server name may not lead to.
func TestMediaRedirectsAreChecked(t *testing.T) {
	l := newLab(t, func(c *Config) { c.Dial = nil })
	s := l.serve("", reply(200, "secret"), "127.0.0.1")
	_, err := l.client.redirected(context.Background(), MediaRequest{Server: "peer.example", MaxBytes: 100}, s.URL)
	if !errors.Is(err, guard.ErrDenied) {
		t.Fatalf("got %v", err)
	}
}

func TestPaths(t *testing.T) {
	for in, want := range map[string]string{
		"$abc": "$abc", "!r:a": "%21r:a", "a/b": "a%2Fb", ".": "%2E", "..": "%2E%2E", "a b?c#d%": "a%20b%3Fc%23d%25", "é": "%C3%A9", "": "",
	} {
		if got := path("/x", nil, in); got != "/x/"+want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}
