package roundrobin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"weft/internal/freeport"
)

func TestEachIsAskedInTurnAndTheDeadAreLeftOut(t *testing.T) {
	backend := func(name string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			fmt.Fprintf(w, "%s %s %s %s %s", name, r.Host, r.URL, r.Header.Get("X-Forwarded-For"), body)
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	dead, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	var trouble bytes.Buffer
	b := New([]string{backend("a"), dead, backend("b")}, &trouble)
	defer b.Close()
	front := httptest.NewServer(b)
	defer front.Close()
	count := map[string]int{}
	for range 6 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, front.URL+"/x?y=1;2", strings.NewReader("said"))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "weft.test"
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		if err := errors.Join(err, res.Body.Close()); err != nil {
			t.Fatal(err)
		}
		name, rest, _ := strings.Cut(string(text), " ")
		count[name]++
		if want := "weft.test /x?y=1;2 127.0.0.1 said"; rest != want {
			t.Errorf("%q, not %q", rest, want)
		}
	}
	if count["a"] != 3 || count["b"] != 3 {
		t.Errorf("%v", count)
	}
	if trouble.Len() > 0 {
		t.Error(trouble.String())
	}
}

// closedAtItsEnd is as the body of a request once the server has begun to answer it.
type closedAtItsEnd struct{ strings.Reader }

func (c *closedAtItsEnd) Read(p []byte) (int, error) {
	if c.Len() == 0 {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := c.Reader.Read(p)
	if err == nil && c.Len() == 0 {
		err = io.EOF
	}
	return n, err
}

func TestEndOfABodyIsKnown(t *testing.T) {
	b := &requestBody{from: &closedAtItsEnd{*strings.NewReader("said")}}
	buf := make([]byte, 4)
	if n, err := b.Read(buf); n != 4 || err != io.EOF {
		t.Fatal(n, err)
	}
	if n, err := b.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
}
