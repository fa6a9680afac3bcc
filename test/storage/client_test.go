package storage

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"testing"

	"github.com/tidwall/gjson"
)

// api calls a server's HTTP interface.
type api struct {
	t    testing.TB
	base string
	http *http.Client
}

func (a *api) do(method, path, token, body string) (gjson.Result, error) {
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.base+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return gjson.Result{}, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return a.send(req)
}

func (a *api) send(req *http.Request) (gjson.Result, error) {
	res, err := a.http.Do(req)
	if err != nil {
		return gjson.Result{}, err
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return gjson.Result{}, err
	}
	if res.StatusCode != http.StatusOK {
		return gjson.Result{}, fmt.Errorf("%s %s: %d %s", req.Method, req.URL, res.StatusCode, data)
	}
	return gjson.ParseBytes(data), nil
}

func (a *api) must(method, path, token, body string) gjson.Result {
	a.t.Helper()
	res, err := a.do(method, path, token, body)
	if err != nil {
		a.t.Fatal(err)
	}
	return res
}

const client = "/_matrix/client/v3"

func in(room string) string { return client + "/rooms/" + url.PathEscape(room) }

// parallel runs fn for 0 … n-1, a few at a time, and stops the test at the first failure.
func parallel(t testing.TB, n int, fn func(i int) error) {
	t.Helper()
	const workers = 8
	next := make(chan int)
	errs := make(chan error, workers)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range next {
				if err := fn(i); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	var failed error
	for i := 0; i < n && failed == nil; i++ {
		select {
		case next <- i:
		case failed = <-errs:
		}
	}
	close(next)
	wg.Wait()
	close(errs)
	for err := range errs {
		if failed == nil {
			failed = err
		}
	}
	if failed != nil {
		t.Fatal(failed)
	}
}
