package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// maxProblems bounds the refusals that are remembered.
const maxProblems = 100

// endpointName gives the segment that names an endpoint: "send_join" of
// "PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}".
func endpointName(pattern string) string {
	_, path, ok := strings.Cut(pattern, " ")
	if !ok {
		return pattern
	}
	path, _, _ = strings.Cut(path, "/{")
	if rest, ok := strings.CutPrefix(path, fedV1); ok {
		return rest
	}
	if rest, ok := strings.CutPrefix(path, fedV2); ok {
		return rest
	}
	return strings.TrimPrefix(path, "/_matrix/")
}

// Count is what was asked of one endpoint.
type Count struct {
	// Requests are all requests, Failed those that were answered with an error.
	Requests, Failed int
	// Bytes is the size of the answers.
	Bytes int64
}

// traffic counts requests.
type traffic struct {
	mu       sync.Mutex
	counts   map[string]Count
	edus     map[string]int
	problems []string
}

func newTraffic() *traffic {
	return &traffic{counts: make(map[string]Count), edus: make(map[string]int)}
}

func (t *traffic) count(name string, r *http.Request, bytes int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counts[name]
	c.Requests++
	c.Bytes += bytes
	if err != nil {
		c.Failed++
		if len(t.problems) < maxProblems && !errors.Is(err, context.Canceled) {
			t.problems = append(t.problems, fmt.Sprintf("%s %s: %v", r.Method, r.URL.Path, err))
		}
	}
	t.counts[name] = c
}

// Traffic gives what was asked so far, by the endpoints' names, such as "send_join"
// and "key/v2/server".
func (s *Server) Traffic() map[string]Count {
	s.traffic.mu.Lock()
	defer s.traffic.mu.Unlock()
	out := make(map[string]Count, len(s.traffic.counts))
	for k, v := range s.traffic.counts {
		out[k] = v
	}
	return out
}

// EDUs gives how many EDUs came, by type.
func (s *Server) EDUs() map[string]int {
	s.traffic.mu.Lock()
	defer s.traffic.mu.Unlock()
	out := make(map[string]int, len(s.traffic.edus))
	for k, v := range s.traffic.edus {
		out[k] = v
	}
	return out
}

// Problems lists the first requests that were refused, and events that were not
// accepted: a server under test that causes any did something wrong, or asked for
// something that a synthetic server does not serve.
func (s *Server) Problems() []string {
	s.traffic.mu.Lock()
	defer s.traffic.mu.Unlock()
	return append([]string(nil), s.traffic.problems...)
}

func (t *traffic) problem(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.problems) < maxProblems {
		t.problems = append(t.problems, fmt.Sprintf(format, args...))
	}
}
